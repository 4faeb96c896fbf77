"""Columns as tables, for exchange: Parquet out; Parquet, CSV and JSON lines in, joined by key, or by shard and row."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmclr.data.columns.kind import INTEGERS, Kind
from mmclr.data.columns.of_shard import open_column
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.sidecar import name_of
from mmclr.data.tabular.delimited import SEPARATORS
from mmclr.data.tabular.tables import rows
from mmclr.errors import UserError
from mmclr.storage import written

BY = "table of columns"
PLACE = ("shard", "row", "key")  # columns that say which sample a row of a table is
NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?", re.ASCII)  # 007 is a name
EXACT = 1 << 53  # whole numbers up to here are themselves in float64

Advance = Callable[[int], object]


def export(indices: Sequence[ShardIndex], names: Sequence[str], out: str | Path, advance: Advance) -> int:
    """Write columns of shards as one Parquet file, with shard, row and key of each sample; return how many rows.

    A missing value is null. Raises UserError where a column is not there, or its kinds differ between shards.
    """
    if Path(out).suffix.lower() != ".parquet":
        raise UserError(f"{out}: columns are written as Parquet; name a file that ends in .parquet")
    plain = [name.rpartition("/")[2] for name in names]
    taken = [name for name, count in Counter([*PLACE, *plain]).items() if count > 1]
    if taken:
        raise UserError(f"{out}: the table would have two columns {taken[0]!r}; leave one of them out")
    with written.staged(out, BY) as partial:
        writer: pq.ParquetWriter | None = None
        try:
            for index in indices:
                table = _table(index, dict(zip(plain, names)))
                writer = writer or pq.ParquetWriter(partial, table.schema)
                if table.schema != writer.schema:
                    raise UserError(
                        f"{identity(index.url)}: its columns are of other kinds than those of the first shard"
                    )
                writer.write_table(table)
                advance(len(index))
        finally:
            if writer is not None:
                writer.close()
    return sum(map(len, indices))


@dataclass
class Joined:
    """A column of a table, joined with the samples of shards."""

    kind: Kind
    rows: int  # of the table that can be used
    values: dict[Any, Any]  # by key, or by shard and row
    by_place: bool
    faults: Counter[str] = field(default_factory=Counter)

    def of(self, index: ShardIndex) -> tuple[list[int], list[Any]]:
        """Return the rows of a shard that the table has a value for, and the values."""
        name = name_of(index.url)
        keys = [(name, row) for row in range(len(index))] if self.by_place else index.keys()
        found = [(row, self.values[key]) for row, key in enumerate(keys) if key in self.values]
        return [row for row, _ in found], [value for _, value in found]


def read(
    path: Path, column: str, key: str, indices: Sequence[ShardIndex], kind: Kind | None, advance: Advance
) -> Joined:
    """Read a column of a table; `kind` None takes the one that its values have.

    A table is joined by `key`; where samples share keys by shard and row, which a table of `export` has, and its keys
    are compared. Raises UserError where that is ambiguous: a key twice with different values, or of two samples.
    """
    repeats = _repeats(indices)
    joined = _collected(path, column, key, {name_of(index.url): index for index in indices} if repeats else {}, advance)
    values = joined.values
    if not joined.by_place and (twice := next(filter(values.__contains__, repeats), None)):
        raise UserError(
            f"the key {twice!r} is of a sample of {' and of one of '.join(repeats[twice])}; a table with the columns "
            "shard, row and key tells them apart: mmclr data columns export writes one"
        )
    joined.kind = kind or _infer(path, column, list(values.values()), path.suffix.lower() in SEPARATORS)
    for place, value in values.items():
        values[place] = _converted(value, joined.kind, f"{path}: the value of {place!r}")
    try:
        joined.kind.cast(array(list(values.values()), joined.kind))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: {column}: {error}; choose another --kind") from None
    return joined


def _collected(path: Path, column: str, key: str, known: dict[str, ShardIndex], advance: Advance) -> Joined:
    """Return the values of a table as they stand there; by shard and row where `known` has shards, if it tells them."""
    joined = Joined(Kind("string"), 0, {}, False)
    for row in rows(path, [key, column]):
        advance(1)
        if row.fault:
            joined.faults[row.fault.reason] += 1
            continue
        joined.by_place = bool(known) and {"shard", "row"} <= row.values.keys()
        place = _place(path, row.number, row.values, key, known) if joined.by_place else _text(row.values[key])
        if place is None:
            joined.faults["no_key"] += 1
            continue
        joined.rows += 1
        value = row.values[column]
        if _missing(value):
            continue
        if joined.values.setdefault(place, value) != value:
            raise UserError(f"{path}, row {row.number}: the key {place!r} was there before, with another value")
    return joined


def array(values: Sequence[Any], kind: Kind) -> NDArray[Any]:
    """Return converted values as an array: [n], or [n, width]."""
    dtype = object if kind.dtype == "string" else np.int64 if kind.dtype in INTEGERS else np.float64
    return np.array(values, dtype).reshape(kind.shape(len(values)))


def _table(index: ShardIndex, names: dict[str, str]) -> pa.Table:
    n = len(index)
    arrays = {"shard": pa.array([name_of(index.url)] * n, pa.string()), "row": pa.array(range(n), pa.int64())}
    arrays["key"] = pa.array(index.keys(), pa.string())
    for plain, name in names.items():
        found, values = open_column(index, name)
        assert found.kind
        if isinstance(values, np.ndarray):
            missing = pa.array(found.kind.is_missing(values))
            if found.kind.width:
                flat = pa.array(values.reshape(-1))
                arrays[plain] = pa.FixedSizeListArray.from_arrays(flat, found.kind.width, mask=missing)
            else:
                arrays[plain] = pa.array(values, mask=missing.to_numpy(zero_copy_only=False))
        else:
            arrays[plain] = pa.array([value or None for value in values.to_pylist()], pa.large_string())
    return pa.table(arrays)


def _place(path: Path, number: int, values: dict[str, Any], key: str, known: dict[str, ShardIndex]) -> Any:
    """Return the shard and row that a row of a table names, None where it is none of these shards."""
    shard, text = _text(values["shard"]), _text(values["row"])
    index = known.get(shard or "")
    if index is None or text is None or not text.isdecimal():
        return None
    row = int(text)
    own = index.key(row) if row < len(index) else "no sample"
    if own != _text(values[key]):
        raise UserError(
            f"{path}, row {number}: row {row} of {shard} is {values[key]!r} in the table and {own!r} in the shard: the "
            "table was made from another"
        )
    return shard, row


def _repeats(indices: Sequence[ShardIndex]) -> dict[str, tuple[str, str]]:
    """Return the keys that two samples have, and the shards of these."""
    seen: dict[str, str] = {}
    found: dict[str, tuple[str, str]] = {}
    for index in indices:
        shard = identity(index.url)
        for row in range(len(index)):
            if (key := index.key(row)) in seen:
                found[key] = seen[key], shard
            seen[key] = shard
    return found


def _text(value: Any) -> str | None:
    """Return a key as text; numbers are their digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or value == "" or isinstance(value, (list, dict)) else str(value)


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _infer(path: Path, column: str, values: Sequence[Any], text: bool) -> Kind:
    """Return the kind that holds values without loss; of vectors float32."""
    if not values:
        raise UserError(f"{path}: the column {column!r} has no value that belongs to a key")
    if all(isinstance(value, str) for value in values):
        if not text or not all(NUMBER.fullmatch(value.strip()) for value in values):
            return Kind("string")
        values = [_number(value) for value in values]
    widths = {len(value) if isinstance(value, list) else 0 for value in values}
    if len(widths) == 1 and isinstance(values[0], list) and widths != {0}:
        return Kind("float32", widths.pop())
    if widths == {0} and all(isinstance(value, (int, float)) for value in values):
        whole = all(isinstance(value, int) and 0 <= value < 1 << 63 for value in values)
        return Kind("int64" if whole else "float64")
    raise UserError(
        f"{path}: the values of {column!r} are not all numbers, all texts, or all lists of one length; say which kind "
        "they are to become: --kind string"
    )


def _converted(value: Any, kind: Kind, what: str) -> Any:
    """Return a value of a table as one of a kind. Raises UserError."""
    if kind.dtype == "string":
        return value if isinstance(value, str) else str(value)
    if kind.width:
        if not isinstance(value, list) or len(value) != kind.width:
            raise UserError(f"{what} is {str(value)[:40]!r}, not a list of {kind.width} numbers; choose another --kind")
        return [_converted(part, Kind(kind.dtype), what) for part in value]
    number = _number(value)
    whole = kind.dtype in INTEGERS
    if (
        number is None
        or (whole and (not math.isfinite(number) or number != int(number)))
        or (not whole and isinstance(number, int) and abs(number) > EXACT)
    ):
        raise UserError(f"{what} is {str(value)[:40]!r}, which {kind} does not hold; choose another --kind")
    return int(number) if whole else float(number)


def _number(value: Any) -> int | float | None:
    if isinstance(value, (bool, int)):
        return int(value)
    try:
        return int(value) if isinstance(value, str) and "." not in value and "e" not in value.lower() else float(value)
    except (ValueError, TypeError, OverflowError):
        return None
