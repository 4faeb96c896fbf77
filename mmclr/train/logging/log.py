"""The log of a run: one JSON line per logged step, and a progress bar or plain lines on the terminal."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmclr.display.console import Console
from mmclr.storage.whole_file import write_whole


class Log:
    """RUN/log.jsonl. After a resume it continues as if the run had never stopped.

    A disk that is full ends nothing: what could not be written is kept, and written with the next line.
    """

    def __init__(self, path: Path, step: int, off: bool = False) -> None:
        """Keep the lines up to `step`: what a killed run did after its last checkpoint will be done again."""
        self.path, self.fault = path, ""  # why the last line could not be written
        self._file: int | None = None
        self._pending = b""
        if off:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(errors="replace").splitlines() if path.is_file() and step else []
        kept = "".join(line + "\n" for line in lines if step_of(line) <= step)
        if not path.is_file() or path.read_bytes() != kept.encode():
            write_whole(path, kept)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._flush()
            os.close(self._file)
            self._file = None

    def write(self, row: dict[str, Any]) -> bool:
        """Append one line; say whether it and all before it are in the file."""
        if self._file is None:
            return True
        self._pending += (json.dumps(strict(row)) + "\n").encode()
        return self._flush()

    def _flush(self) -> bool:
        assert self._file is not None
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._file, self._pending) :]
        except OSError as error:
            self.fault = error.strerror or str(error)
            return False
        self.fault = ""
        return True


def strict(value: Any) -> Any:
    """Return a value as JSON has it: null for numbers that are not finite, which readers take for NaN."""
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def step_of(text: str) -> float:
    """Return the step in a line of the log, or in best.json; infinity where it was cut off by a kill."""
    try:
        return float(json.loads(text)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class _Console(Console):
    """A console whose reader may go: the run does not."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """Progress on the terminal: a bar where it is one, a line now and then where it is a file."""

    def __init__(self, steps: int, done: int, quiet: bool) -> None:
        self.console = _Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("train", style="bold"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, completed=done, facts="")
        self._printed = 0.0

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self._bar.update(self._task, completed=step)

    def show(self, row: dict[str, Any], every: float = 15.0) -> None:
        """Show a logged row; where there is no bar, at most one line per `every` seconds."""
        facts = f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s  data wait {row['data_wait']:.0%}"
        facts += f"  {row['memory_gib']:.1f} GiB"
        self._bar.update(self._task, facts=facts)
        if not self.console.is_terminal and time.monotonic() - self._printed > every:
            self._printed = time.monotonic()
            self.console.print(f"step {row['step']}: {facts}  left {row['left_s']:.0f} s", soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a message above the bar."""
        self.console.print(text, soft_wrap=True)
