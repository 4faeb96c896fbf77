"""A progress bar on the terminal, silent where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from mmclr.eval.embed import ranks
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmclr.display.console import Console


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` steps; yields a function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or total == 0 or not ranks.speaks(),
    )
    with progress:
        task = progress.add_task(what, total=total)
        yield lambda steps: progress.advance(task, steps)
