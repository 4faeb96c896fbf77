"""Columns follow samples into other shards, joined by key: what was computed for a sample is not computed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from mmclr.data_tools.lib.shard_writer import ShardWriter

from mmclr.data import columns
from mmclr.data.columns.of_shard import Found
from mmclr.data.columns.reader import taken
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.errors import UserError

KEPT = "columns"  # what packed.json calls the lines
Places = dict[str, tuple[int, int]]  # key -> number of its shard, row in it


def carried(writer: ShardWriter) -> bool:
    """Whether an earlier call has written all shards, and the columns beside them."""
    return writer.finished and KEPT in writer.state


def carry(writer: ShardWriter, old: Sequence[ShardIndex]) -> list[str]:
    """Write the columns of `old` beside the new shards, which hold some of their samples; return a line about each.

    A column stays behind, and that is said, where two samples share a key, or its shards were made in several ways.
    """
    if not carried(writer):
        writer.keep(KEPT, list(_carry(old, [writer.folder / shard["name"] for shard in writer.state["shards"]])))
    lines: list[str] = writer.state[KEPT]
    return lines


def _carry(old: Sequence[ShardIndex], shards: Sequence[Path]) -> Iterator[str]:
    """Write the columns; yield a line about each."""
    found: dict[str, dict[int, Found]] = {}
    for number, index in enumerate(old):
        for each in columns.listing(index):
            found.setdefault(each.name, {})[number] = each
    if not found or not shards:
        return
    known = [index.keys() for index in old]
    repeats = [key for key, count in Counter(chain.from_iterable(known)).items() if count > 1]
    new = open_indices([str(path) for path in shards])
    places = {key: (number, row) for number, keys in enumerate(known) for row, key in enumerate(keys)}
    for name, parts in found.items():
        if why := f"the key {repeats[0]!r} is of several samples" if repeats else _fault(old, parts):
            yield f"the column {name} stays behind: {why}"
            continue
        kind = next(iter(parts.values())).kind
        for index in new:
            _write(old, index, name, parts, places)
        yield f"the column {name} ({kind}) is beside the new shards, too"


def _fault(old: Sequence[ShardIndex], parts: dict[int, Found]) -> str:
    """Return why a column of these shards cannot be one of others, "" for no reason."""
    first = next(iter(parts.values()))
    for number, each in parts.items():
        if each.fault:
            return f"that of {identity(old[number].url)} {each.fault}"
        if (each.kind, each.facts) != (first.kind, first.facts):
            return f"that of {identity(old[number].url)} was made otherwise than that of others"
    return ""


def _write(old: Sequence[ShardIndex], index: ShardIndex, name: str, parts: dict[int, Found], places: Places) -> None:
    """Write the column of a new shard; samples whose old shard has none are missing there, too."""
    first = next(iter(parts.values()))
    assert first.kind is not None
    if columns.holds(index, name, first.facts):
        return
    where = np.array([*map(places.__getitem__, index.keys())], np.int64).reshape(-1, 2)
    with columns.write(index, name, first.kind, first.facts) as column:
        for number in sorted(parts.keys() & set(where[:, 0].tolist())):
            mine = np.flatnonzero(where[:, 0] == number)
            try:
                values = columns.open_column(old[number], name)[1]
            except UserError as error:
                raise UserError(f"{error}; or remove it, and give the same command again") from None
            column.put(mine, taken(values, where[mine, 1]))
