"""List, export and import values per sample: columns beside shards, joined by key."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmclr.data_tools.lib.tell import tell
from rich.progress import Progress

from mmclr.data import columns
from mmclr.data.columns import Kind, exchange
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.sources import expand
from mmclr.display.console import Console
from mmclr.errors import UserError

SHARDS = "shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::"
EXAMPLES = """examples:
  mmclr data columns list 'shards/*.tar'
  mmclr data columns export 'shards/*.tar' clusters score --out values.parquet
  mmclr data columns import 'shards/*.tar' scores.csv --key file --column score --dry-run
A column NAME of SHARD is the Arrow file SHARD.NAME.arrow beside it (FOLDER/NAME: in FOLDER; of remote shards, and of
those in a folder that cannot be written, in the cache folder). Any Arrow or Parquet library reads what is written.
An import holds the values of the table in memory.
"""


def main(argv: list[str]) -> int:
    """Run `mmclr data columns list|export|import`; the status of list is 1 when a column cannot be used."""
    parser = argparse.ArgumentParser(
        description="List the columns (values per sample) of shards, write them as one Parquet file, or make one from "
        "a column of a table (.parquet, .csv, .tsv, .jsonl), joined by key.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,export,import}")
    for name, text in (("list", "list columns"), ("export", "write Parquet"), ("import", "make a column from a table")):
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("shards", help=SHARDS)
        action.add_argument("--json", action="store_true", help="say what was found or done as one JSON object")
        ACTIONS[name][0](action)
    args = parser.parse_args(argv)
    found = ACTIONS[args.action][1](args, open_indices(expand(args.shards)))
    tell(found, args.json)
    return 1 if found.get("faults_of_columns") else 0


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default="", help="list the columns that lie in this folder instead")


def _list(args: argparse.Namespace, indices: Sequence[ShardIndex]) -> dict[str, Any]:
    """Return the columns by name: in how many shards, of which kinds, what their makers said, what is wrong."""
    found: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for index in indices:
        for each in columns.listing(index, args.folder):
            row = found.setdefault(each.name, {"shards": 0, "kinds": [], "made": each.facts, "faults": []})
            if each.fault:
                row["faults"].append(f"{each.path}: {each.fault}")
                faults.append(f"{each.path}: {each.fault}")
                continue
            row["shards"] += 1
            row["kinds"] = sorted({*row["kinds"], str(each.kind)})
    lines = [_line(name, row, len(indices)) for name, row in found.items()]
    lines = lines or [f"no columns beside these {len(indices)} shards"]
    return {
        "shards": len(indices),
        "columns": found,
        "faults_of_columns": faults,
        "lines": [*lines, *(f"  cannot be used: {fault}" for fault in faults)],
    }


def _line(name: str, row: dict[str, Any], shards: int) -> str:
    made = ", ".join(f"{key} {value}" for key, value in row["made"].items())
    return f"{name}: {' and '.join(row['kinds']) or 'unreadable'}, {row['shards']} of {shards} shards ({made})"


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("columns", nargs="+", metavar="NAME", help="columns to be written")
    parser.add_argument("--out", required=True, metavar="FILE.parquet", help="where they are written")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")


def _export(args: argparse.Namespace, indices: Sequence[ShardIndex]) -> dict[str, Any]:
    rows = sum(map(len, indices))
    if args.dry_run:
        for index in indices:
            for name in args.columns:
                columns.look(index, name)
    else:
        with _bar("exporting", rows) as advance:
            exchange.export(indices, args.columns, args.out, advance)
    done = "would be written" if args.dry_run else "written"
    line = f"{args.out}: {rows:,} rows with {', '.join(args.columns)} {done}"
    return {"out": args.out, "rows": rows, "columns": args.columns, "dry_run": args.dry_run, "lines": [line]}


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="a .parquet, .csv, .tsv or .jsonl")
    parser.add_argument("--key", default="key", help="the table's column that holds samples' keys (default key)")
    parser.add_argument("--column", required=True, help="the table's column that holds values")
    parser.add_argument("--name", default="", help="of the column that is made (default: as in the table)")
    parser.add_argument(
        "--kind", default="", help="string, int64, float32, float16[512], ... (default: what values are)"
    )
    parser.add_argument("--dry-run", action="store_true", help="join, say what would be written, and write nothing")


def _import(args: argparse.Namespace, indices: Sequence[ShardIndex]) -> dict[str, Any]:
    name = args.name or args.column
    try:
        kind = Kind.parse(args.kind) if args.kind else None
    except ValueError as error:
        raise UserError(f"--kind {error}") from None
    columns.check(indices, name)
    with _bar("reading", None) as advance:
        joined = exchange.read(args.table, args.column, args.key, indices, kind, advance)
    found = [joined.of(index) for index in indices]
    matched = sum(len(rows) for rows, _ in found)
    if not matched:
        raise UserError(
            f"{args.table}: none of its {joined.rows:,} rows has the key of a sample; --key names their column"
        )
    if not args.dry_run:
        _write(args, name, joined.kind, list(zip(indices, found)))
    samples, unmatched = sum(map(len, indices)), len(joined.values) - matched
    done = "would be written" if args.dry_run else "written"
    lines = [
        f"{name}: {joined.kind}, {matched:,} of {samples:,} samples have a value; {len(indices)} files {done}",
        f"  values whose key no sample has: {unmatched:,}",
        *(f"  rows left out, {reason}: {count:,}" for reason, count in joined.faults.items()),
    ]
    return {
        "column": name,
        "kind": str(joined.kind),
        "rows": joined.rows,
        "samples": samples,
        "matched": matched,
        "unmatched": unmatched,
        "faults": dict(joined.faults),
        "dry_run": args.dry_run,
        "lines": lines,
    }


def _write(args: argparse.Namespace, name: str, kind: Kind, found: Sequence[tuple[ShardIndex, Any]]) -> None:
    facts = {"table": args.table.name, "column": args.column}
    with _bar("writing", len(found)) as advance:
        for index, (rows, values) in found:
            with columns.write(index, name, kind, facts) as column:
                column.put(rows, exchange.array(values, kind))
            advance(1)


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        bar = bars.add_task(what, total=total)
        yield lambda steps: bars.advance(bar, steps)


ACTIONS = {
    "list": (_list_options, _list),
    "export": (_export_options, _export),
    "import": (_import_options, _import),
}
