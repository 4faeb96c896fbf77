"""A suite: a function from a model and a set to a Result, its command, and its name in a list of tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmclr.eval import options
from mmclr.eval.embed import ranks
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.result import Result, check

from mmclr.display.terminal import say


@dataclass(frozen=True)
class Suite:
    """One row of `mmclr eval`: what it is called, asks for and does."""

    name: str
    about: str | None  # what --help says
    examples: str
    run: Callable[[Embedder, Any, argparse.Namespace], Result]
    open: Callable[[argparse.Namespace], Any] = options.dataset
    add: Callable[[argparse.ArgumentParser], None] = options.add_classes  # its own options

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of its command."""
        p = argparse.ArgumentParser(
            f"mmclr eval {self.name}",
            description=self.about,
            epilog=self.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        options.add_model(p)
        options.add_data(p)
        self.add(p)
        p.add_argument(
            "--out", "--output", type=Path, metavar="FILE", help="write the result as JSON, samples beside it"
        )
        p.add_argument("--skip_existing", "--skip-existing", action="store_true", help="do nothing where FILE exists")
        p.add_argument(
            "--examples",
            type=int,
            default=12,
            metavar="N",
            help="queries or images kept beside FILE for `mmclr report` to show (0: none)",
        )
        return p

    def main(self, argv: list[str]) -> None:
        """Load model and set, run, print and save the result."""
        args = self.parser().parse_args(argv)
        if args.skip_existing and args.out and args.out.is_file():
            say(f"{args.out} exists: nothing done")
            return
        if args.out:
            check(args.out)
        ranks.join()
        data = self.open(args)
        result = self.measured(options.embedder(args), data, args)
        if ranks.speaks():
            written = result.save(args.out) if args.out else None  # first: its reader may be gone
            result.show()
            if written:
                say(f"written: {written}")
        ranks.leave()

    def measure(self, argv: list[str], embedder: Embedder) -> Result:
        """Run with the options of a command line, on a model that is loaded already."""
        args = self.parser().parse_args(argv)
        return self.measured(embedder, self.open(args), args)

    def measured(self, embedder: Embedder, data: Any, args: argparse.Namespace) -> Result:
        """Run, and say how several images of an item became one row."""
        result = self.run(embedder, data, args)
        items = getattr(data, "items", None)
        if items is None or not items.several:
            return result
        said = f"an item's images are one row, pooled by {embedder.model.config.image_pool}"
        return replace(result, notes=[*result.notes, said])


def about(embedder: Embedder, embedded: Embedded, **hashes: str) -> dict[str, Any]:
    """Return what every result says of its model and data."""
    data = embedded.data
    return {
        "dataset": data.name,
        "language": data.language,
        "model": embedder.name,
        "pretrained": embedder.pretrained,
        "skipped": dict(data.skipped),
        "faults": [str(entry) for entry in data.faults],
        "dtype": embedder.precision,
        "head": embedder.head,
        "hashes": {
            "model": embedder.hash,
            "images": embedded.hash,
            "annotations": data.annotation_hash,
            "transform": embedder.transform_hash,
            **hashes,
        },
    }
