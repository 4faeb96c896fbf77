"""Values of columns for samples by their numbers, over all shards of all sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from mmclr.data.columns.file import Values
from mmclr.data.columns.of_shard import Found, look, open_column
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.shards import Shards, bounds
from mmclr.errors import UserError

OPEN = 4096  # files that one column has mapped at once; Linux allows a process 65,530 maps


class Column:
    """One column of several lists of shards; their files are looked at now, and mapped when a value is wanted.

    `kind` is that of its values, `facts` what its maker said, of each shard: `facts[part][shard]`.
    Raises UserError where a shard has no such column, where one does not belong to it, or where kinds differ.
    """

    def __init__(self, parts: Sequence[Shards], name: str) -> None:
        self.name, self.parts = name, list(parts)
        self.begins = bounds(self.parts)
        found = [[look(index, name) for index in part.indices] for part in self.parts]
        self.facts = [[each.facts for each in row] for row in found]
        first, *others = [each for row in found for each in row]
        assert first.kind
        self.kind = first.kind
        for other in others:
            _agree(first, other)
        self._open: dict[tuple[int, int], Values] = {}

    def __len__(self) -> int:
        return int(self.begins[-1])

    def values(self, numbers: ArrayLike) -> NDArray[Any]:
        """Return the values of samples [n], in their order: [n], or [n, width]; strings are an array of objects.

        A missing value is NaN, -1 or "": see Kind. Raises UserError where a file is damaged.
        """
        wanted = np.asarray(numbers, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples are 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}")
        out = self.kind.empty(len(wanted))
        of_part = np.searchsorted(self.begins, wanted, side="right") - 1
        for part in set(of_part.tolist()):
            mine = np.flatnonzero(of_part == part)
            shard, row = self.parts[part].places(wanted[mine] - self.begins[part])
            for which in set(shard.tolist()):
                here = shard == which
                out[mine[here]] = taken(self._mapped(part, which), row[here])
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps for itself

    def _mapped(self, part: int, shard: int) -> Values:
        found = self._open.get((part, shard))
        if found is None:
            index = self.parts[part].indices[shard]
            now, found = open_column(index, self.name)
            if now.kind != self.kind:
                raise UserError(
                    f"{identity(index.url)}: its column {self.name} has changed while it was used; start again"
                )
            while len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[part, shard] = found
        return found


class Columns:
    """The columns of several lists of shards by name, opened when the first value of one is wanted."""

    def __init__(self, parts: Sequence[Shards]) -> None:
        self.parts = list(parts)
        self._columns: dict[str, Column] = {}

    def column(self, name: str) -> Column:
        """Return a column. Raises UserError where it cannot be used: see Column."""
        if name not in self._columns:
            self._columns[name] = Column(self.parts, name)
        return self._columns[name]

    def values(self, name: str, numbers: ArrayLike) -> NDArray[Any]:
        """Return the values of samples [n] in a column: see Column.values."""
        return self.column(name).values(numbers)


def taken(values: Values, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the values of these rows [n] of a shard: [n], or [n, width]; strings are an array of objects."""
    if isinstance(values, np.ndarray):
        return values[rows]
    texts: NDArray[Any] = values.take(pa.array(rows)).to_numpy(zero_copy_only=False)
    return texts


def _agree(first: Found, other: Found) -> None:
    if other.kind != first.kind:
        raise UserError(
            f"the column {first.name} holds {first.kind} in {first.path} and {other.kind} in {other.path}; "
            "make it anew for all shards"
        )
