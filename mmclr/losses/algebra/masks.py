"""Masks of the pairs that a sum leaves out, for one tile at a time.

A mask writes a tile of ones (kept) and zeros (left out): float, because comparing floats into a float buffer is
vectorised and a boolean result is not (0.05 against 0.8 ms for a tile of 512 x 1024).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmclr import parallel


class Mask:
    """A set of pairs. `rows` and `cols` are slices of global numbers."""

    def keep(self, rows: slice, cols: slice, out: Tensor) -> Tensor:
        """Write 1 where the pair is kept and 0 where it is left out; return `out` [h, w]."""
        raise NotImplementedError

    def drop(self, tile: Tensor, rows: slice, cols: slice, spare: Tensor, value: float = 0.0) -> None:
        """Set a tile to `value` in place where the pair is left out."""
        keep = self.keep(rows, cols, spare)
        if value == 0:
            tile.mul_(keep)
        else:
            tile.masked_fill_(keep == 0, value)


class Pairs(Mask):
    """The pairs (i, i): each sample with itself, or an image with its own caption."""

    def keep(self, rows: slice, cols: slice, out: Tensor) -> Tensor:
        """Write ones with zeros on the global diagonal."""
        self.drop(out.fill_(1), rows, cols, out)
        return out

    def drop(self, tile: Tensor, rows: slice, cols: slice, spare: Tensor, value: float = 0.0) -> None:
        """Set the global diagonal."""
        if rows.start < cols.stop and cols.start < rows.stop:
            tile.diagonal(rows.start - cols.start).fill_(value)


MISSING = -1  # the id of what has none: such samples are equal to nothing but themselves


def groups(ids: Tensor) -> tuple[Tensor, int]:
    """Return numbers [n], from 0, that are equal where the int64 ids [n] are, and how many there are.

    The one place that says which samples are the same: what has no id (MISSING) is a group of its own.
    """
    distinct, numbers = torch.unique(ids, return_inverse=True)
    others = (ids == MISSING).nonzero()[1:, 0]  # the first of them keeps the group that they were thrown into
    numbers[others] = len(distinct) + torch.arange(len(others), device=ids.device)
    return numbers, len(distinct) + len(others)


class Equal(Mask):
    """The pairs of equal ids, int64: this rank's rows [n] and, if they are others, columns [m].

    What has no id is equal to itself alone, and to none of other columns.
    """

    def __init__(self, rows: Tensor, cols: Tensor | None = None, *, shared: bool = False) -> None:
        every_row = parallel.gather(rows)
        every_col = every_row if cols is None else cols if shared else parallel.gather(cols)
        # Small numbers are exact as float32, hashes of 64 bits are not.
        small, count = groups(every_row if cols is None else torch.cat([every_row, every_col]))
        self.only_pairs = cols is None and count == len(every_row)  # all ids differ: the mask is Pairs
        self._rows, self._cols = small.float()[: len(every_row)], small.float()[-len(every_col) :]

    def keep(self, rows: slice, cols: slice, out: Tensor) -> Tensor:
        """Write 1 where the ids differ."""
        return torch.ne(self._rows[rows, None].to(out.dtype), self._cols[cols].to(out.dtype), out=out)


class Where(Mask):
    """The pairs for which a function of (rows, columns), slices of global numbers, returns True [h, w]."""

    def __init__(self, left_out: Callable[[slice, slice], Tensor]) -> None:
        self._left_out = left_out

    def keep(self, rows: slice, cols: slice, out: Tensor) -> Tensor:
        """Write 0 where the function says True."""
        return out.copy_(self._left_out(rows, cols).logical_not())


class Either(Mask):
    """The pairs that at least one of several masks leaves out."""

    def __init__(self, *masks: Mask) -> None:
        self._masks = masks
        self._memory: Tensor | None = None

    def keep(self, rows: slice, cols: slice, out: Tensor) -> Tensor:
        """Write the product of what the masks write."""
        first, *others = self._masks
        first.keep(rows, cols, out)
        if self._memory is None or self._memory.numel() < out.numel():
            self._memory = out.new_empty(out.numel())
        for mask in others:
            mask.drop(out, rows, cols, self._memory[: out.numel()].view(out.shape))
        return out
