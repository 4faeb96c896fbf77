"""Number the classes that a field of the samples tells apart, and write them as a column."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmclr.data_tools.lib.tell import tell
from numpy.typing import NDArray
from rich.progress import track

from mmclr.data import columns
from mmclr.data.columns import Kind
from mmclr.data.samples import fields
from mmclr.data.samples.fields import Field
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.display.console import Console
from mmclr.errors import UserError
from mmclr.storage import written

EXAMPLES = """examples:
  mmclr data label 'train-*.tar' json:subgroup --names classes.txt
      mmclr train papers/hydra.yaml 'data.train=train-*.tar' data.label=column:label
  mmclr data label 'test-*.tar' json:subgroup --like classes.txt       the same numbers for another set
  mmclr data label 'train-*.tar' json:device --name domain --least 20
Classes are numbered from 0 in the order of their names (numbers by size). A sample whose field is missing, or whose
class is left out, gets -1. Of a list the first entry counts.
"""
KIND = "names of classes"


class Found(NamedTuple):
    """Values of the samples of shards, in the order of the shards."""

    names: list[str]  # different values, in the order in which they were met
    codes: list[NDArray[np.int64]]  # of each shard [samples]: number of the value in names, -1 for none


def main(argv: list[str]) -> None:
    """`mmclr data label SHARDS FIELD`."""
    parser = argparse.ArgumentParser(
        description="Number the different values of a field (a member such as cls, or json:NAME) from 0 on, and write "
        "each sample's number as a column beside its shard, SHARD.NAME.arrow, for data.label=column:NAME.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("field", help="where the class stands: cls, or json:NAME")
    parser.add_argument("--name", default="label", help="of the column; FOLDER/NAME writes it to another folder")
    parser.add_argument("--least", type=int, default=1, metavar="N", help="leave out classes of fewer samples")
    parser.add_argument("--names", type=Path, metavar="FILE", help="write the names, one a line, number 0 first")
    parser.add_argument("--like", type=Path, metavar="FILE", help="take the numbers of such a file; leave out others")
    parser.add_argument("--json", action="store_true", help="say what was made as one JSON object, with all counts")
    parser.add_argument("--dry-run", action="store_true", help="read and count, write nothing")
    args = parser.parse_args(argv)
    tell(run(args), args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read, number and write; return the numbers of it, and `lines` that say them. Raises UserError."""
    indices = open_indices(expand(args.shards))
    columns.check(indices, args.name)
    if args.names:
        written.check(args.names, KIND)
    ledger = Ledger()
    found = read(Shards(indices, (), fields.extensions([args.field]), ledger, images=False), args.field, ledger)
    counts = np.bincount(np.concatenate(found.codes) + 1, minlength=len(found.names) + 1)[1:]
    names = _like(args.like) if args.like else _sorted(n for n, c in zip(found.names, counts) if c >= args.least)
    numbers = {name: number for number, name in enumerate(names)}
    if not any(name in numbers for name in found.names):
        raise UserError(f"{args.field}: no class is left of {len(found.names)} ({_why(args)})")
    table = np.array([*(numbers.get(name, -1) for name in found.names), -1], np.int64)  # the last for -1
    labels = [table[codes] for codes in found.codes]
    own = np.bincount(np.concatenate(labels) + 1, minlength=len(names) + 1)
    if not args.dry_run:
        for index, values in zip(indices, labels):
            with columns.write(index, args.name, Kind("int32"), {"field": args.field, "classes": len(names)}) as column:
                column.put(np.arange(len(values)), values)
        if args.names:
            written.write(args.names, "".join(f"{name}\n" for name in names), KIND)
    return _told(args, names, own, ledger, len(indices))


def read(shards: Shards, field: str, ledger: Ledger) -> Found:
    """Read the field of every sample; what cannot be used is counted. Raises UserError where no sample has it."""
    where, codes = Field(field), [np.full(len(index), -1, np.int64) for index in shards.indices]
    names: dict[str, int] = {}
    console = Console(stderr=True)
    for number in track(
        range(len(shards)), "reading", console=console, transient=True, disable=not sys.stderr.isatty()
    ):
        shard, row = shards.locate(number)
        try:
            name = value(where.value(shards.read(number)), field)
        except Fault as fault:
            ledger.add([shards.where(number)._replace(reason=fault.reason, detail=fault.detail)])
            continue
        codes[shard][row] = names.setdefault(name, len(names))
    if not names:
        raise UserError("\n".join([f"{field}: no sample has it", *ledger.lines(met="met")]))
    return Found(list(names), codes)


def value(found: Any, field: str) -> str:
    """Return a value of JSON as a class's name, in one line. Raises Fault where it is none."""
    found = fields.first(found) if isinstance(found, list) else found
    if fields.is_missing(found):
        raise Fault("no_label", f"{field} is not there, or null")
    if isinstance(found, (dict, list)):
        raise Fault("bad_label", f"{field} is {fields.kind_of(found)}, not a word or number")
    name = " ".join(f"{found:g}".split() if isinstance(found, float) else str(found).split())
    if not name:
        raise Fault("no_label", f"{field} is empty")
    return fields.encodable(name, field)


def _sorted(names: Any) -> list[str]:
    """Return names in their order: as numbers where all are, else as texts."""
    known = list(names)
    try:
        return sorted(known, key=lambda name: (float(name), name))
    except ValueError:
        return sorted(known)


def _like(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--like {path}: {getattr(error, 'strerror', None) or error}") from None
    if not names or len(set(names)) < len(names):
        raise UserError(f"--like {path}: names of classes are one a line, each once")
    return names


def _why(args: argparse.Namespace) -> str:
    return f"none of them is in {args.like}" if args.like else f"each has fewer samples than --least {args.least}"


def _told(
    args: argparse.Namespace, names: Sequence[str], own: NDArray[np.int64], ledger: Ledger, shards: int
) -> dict[str, Any]:
    """Return the numbers and the lines of what was done; own [1 + classes] counts -1 first."""
    counts = {name: int(count) for name, count in zip(names, own[1:])}
    seen = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name} {count:,}" for name, count in seen[:5]) + (", ..." if len(seen) > 5 else "")
    done = "would be written" if args.dry_run else "written"
    return {
        "field": args.field,
        "column": args.name,
        "classes": len(names),
        "samples": int(own[1:].sum()),
        "without": int(own[0]),
        "counts": counts,
        "skipped": dict(ledger.counts),
        "dry_run": args.dry_run,
        "lines": [
            f"{int(own[1:].sum()):,} samples of {len(names):,} classes ({shown}); {int(own[0]):,} without a class",
            *(f"  {line}" for line in ledger.lines(met="met")),
            f"{done}: the column {args.name} of {shards} shards" + (f", {args.names}" if args.names else ""),
        ],
    }
