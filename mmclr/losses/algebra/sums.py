"""The sums behind `dual_lse`, in two ways that give the same answer; each a forward and the gradient of a tile.

Shared: ONE exponential 2^(s - c) per pair serves its row and its column. The norms of the features certify that
it cannot overflow; when a sum comes near underflow the way is given up (None) and the other is taken.
Apart: rows and columns have each their own running maximum (and temperature), so any input is right.
Sums are log2 of the kept pairs by row [n] and by column [M], and with `split` of the excluded pairs, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.tiles import LN2, Strip

Sums = list[tuple[Tensor, Tensor]]  # by group (kept, excluded): rows [n] and all columns [M], float64, in bits
Gradients = Sequence[tuple[Tensor, Tensor]]  # likewise, of the logarithms in nats
SPARE_BITS = 20  # headroom above the largest exponential, for sums of a million of them
SAFE_BITS = 40  # a sum this far above underflow has lost less than 2^-40 per pair


def shared_sums(strip: Strip, mask: Mask | None, split: bool, fresh: int) -> tuple[Sums, float, list[Tensor]] | None:
    """Return the sums, the shift c and the first `fresh` tiles of exponentials; None if a sum may have underflowed."""
    info = torch.finfo(strip.x.dtype)
    shift = max(0.0, strip.bound() - math.log2(info.max) + SPARE_BITS)
    totals = [_zeros(strip) for _ in range(2 if split else 1)]
    kept = []
    for number, (rows, cols, tile) in enumerate(strip.tiles(fresh=fresh)):
        _exponentials(tile, shift)
        parts = _parts(strip, tile, rows, cols, mask, split)
        for (row, col), part in zip(totals, parts):
            row[rows] += part.sum(1)
            col[cols] += part.sum(0)
        if number < fresh:
            kept.append(tile.add_(parts[0]) if split else tile)
    totals = [(row, parallel.total(col)) for row, col in totals]
    if shift > 0 and _underflow(totals, math.log2(info.tiny) + SAFE_BITS):
        return None
    return [(row.log2() + shift, col.log2() + shift) for row, col in totals], shift, kept


def shared_gradient(
    strip: Strip, mask: Mask | None, sums: Sums, gradients: Gradients, shift: float, made: int
) -> Callable[[int, Tensor, slice, slice], Tensor]:
    """Return the function from a tile (its exponentials, if its number is below `made`) to its gradient."""
    factors = [
        tuple(_share(g, bits, shift).to(strip.x.dtype) for g, bits in zip(gs, group))
        for gs, group in zip(gradients, sums)
    ]

    def gradient(number: int, tile: Tensor, rows: slice, cols: slice) -> Tensor:
        if number >= made:
            _exponentials(tile, shift)
        if len(factors) == 1:
            if mask is not None and number >= made:
                mask.drop(tile, strip.at(rows), cols, strip.scratch("spare", rows, cols))
            return _weigh(strip, tile, rows, cols, *factors[0])
        tile = strip.scratch("whole", rows, cols).copy_(tile)
        inside, outside = _parts(strip, tile, rows, cols, mask, True)
        other = outside * (factors[1][0][rows, None] + factors[1][1][cols])
        return inside.mul_(factors[0][0][rows, None] + factors[0][1][cols]).add_(other)

    return gradient


def _exponentials(tile: Tensor, shift: float) -> None:
    if shift > 0:
        tile.sub_(shift)
    tile.exp2_()


def _parts(strip: Strip, tile: Tensor, rows: slice, cols: slice, mask: Mask | None, split: bool) -> tuple[Tensor, ...]:
    """Return the kept exponentials; with `split` also the excluded, which stay in `tile`. Each is exact: e - e = 0."""
    if mask is None:
        return (tile,)
    spare = strip.scratch("spare", rows, cols)
    if not split:
        mask.drop(tile, strip.at(rows), cols, spare)
        return (tile,)
    inside = mask.keep(strip.at(rows), cols, spare).mul_(tile)
    return inside, tile.sub_(inside)


def _weigh(strip: Strip, tile: Tensor, rows: slice, cols: slice, row: Tensor, col: Tensor) -> Tensor:
    """Return tile_ij * (row_i + col_j) in scratch memory: a kept tile stays as it is."""
    return torch.add(row[rows, None], col[cols], out=strip.scratch("spare", rows, cols)).mul_(tile)


def _share(gradient: Tensor, bits: Tensor, shift: float) -> Tensor:
    """Return gradient / sum, in the unit of the exponentials; an empty sum has none."""
    return torch.where(bits == -torch.inf, 0.0, gradient.double() * LN2 * (shift - bits).exp2())


def _zeros(strip: Strip) -> tuple[Tensor, Tensor]:
    rows, cols = strip.x.shape[0], strip.y.shape[0]
    return tuple(strip.x.new_zeros(size, dtype=torch.float64) for size in (rows, cols))  # type: ignore[return-value]


def _underflow(totals: Sums, least: float) -> bool:
    """Say whether any rank has a sum below 2^least: what underflowed might have mattered."""
    low = [(part < 2.0**least).any() for group in totals for part in group]
    return bool(parallel.maximum(torch.stack(low).any().float()))


def apart_sums(
    strip: Strip, mask: Mask | None, split: bool, row_scale: Tensor | None, col_scale: Tensor | None
) -> Sums:
    """Return the sums of 2^(row_scale_i s_ij) by row and of 2^(col_scale_j s_ij) by column (col_scale of all, [M])."""
    running = [(_Running(strip.x, len(strip.x)), _Running(strip.x, len(strip.y))) for _ in range(2 if split else 1)]
    for rows, cols, tile in strip.tiles():
        for excluded, (row, col) in enumerate(running):
            row.add(rows, _scaled(strip, tile, rows, cols, mask, bool(excluded), row_scale, 0), 1)
            col.add(cols, _scaled(strip, tile, rows, cols, mask, bool(excluded), col_scale, 1), 0)
    return [(row.bits(), col.over_ranks().bits()) for row, col in running]


def apart_gradient(
    strip: Strip,
    mask: Mask | None,
    sums: Sums,
    gradients: Gradients,
    scales: tuple[Tensor | None, Tensor | None],
    dscales: tuple[Tensor | None, Tensor | None],
) -> Callable[[int, Tensor, slice, slice], Tensor]:
    """Return the function from a tile to its gradient; it adds to `dscales`, the gradients of row and col scales."""
    lse = [[torch.where(bits == -torch.inf, torch.inf, bits).to(strip.x.dtype) for bits in group] for group in sums]
    factors = [[(g * LN2).to(strip.x.dtype) for g in group] for group in gradients]

    def gradient(number: int, tile: Tensor, rows: slice, cols: slice) -> Tensor:
        out = strip.scratch("gradient", rows, cols).zero_()
        for excluded in range(len(lse)):
            for side, at in enumerate((rows, cols)):
                shape = (-1, 1) if side == 0 else (1, -1)
                part = _scaled(strip, tile, rows, cols, mask, bool(excluded), scales[side], side)
                part.sub_(lse[excluded][side][at].view(shape)).exp2_().mul_(factors[excluded][side][at].view(shape))
                scale, dscale = scales[side], dscales[side]
                if scale is not None and dscale is not None:
                    dscale[at] += (part * tile).sum(1 - side)
                    part.mul_(scale[at].view(shape))
                out.add_(part)
        return out

    return gradient


def _scaled(
    strip: Strip,
    tile: Tensor,
    rows: slice,
    cols: slice,
    mask: Mask | None,
    excluded: bool,
    scale: Tensor | None,
    side: int,
) -> Tensor:
    """Return the tile times its row's (side 0) or column's (1) scale, -inf outside the group, in scratch memory."""
    part = strip.scratch("part", rows, cols)
    if scale is None:
        part.copy_(tile)
    else:
        torch.mul(tile, scale[rows, None] if side == 0 else scale[cols], out=part)
    if mask is None:
        return part
    keep = mask.keep(strip.at(rows), cols, strip.scratch("spare", rows, cols))
    return part.masked_fill_(keep == float(excluded), -torch.inf)


class _Running:
    """log2 of sums of 2^z that come in tiles: a maximum so far, and the sum relative to it."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.peak = like.new_full((size,), -torch.inf)
        self.total = like.new_zeros(size, dtype=torch.float64)

    def add(self, at: slice, z: Tensor, dim: int) -> None:
        """Add a tile's sums along `dim`; z is overwritten."""
        old = self.peak[at]
        peak = torch.maximum(old, z.amax(dim))
        base = torch.where(peak == -torch.inf, 0.0, peak)
        more = z.sub_(base.unsqueeze(dim)).exp2_().sum(dim)
        self.total[at] = self.total[at] * (old - base).exp2() + more
        self.peak[at] = peak

    def over_ranks(self) -> _Running:
        """Return the sums of all ranks together."""
        peak = parallel.maximum(self.peak)
        base = torch.where(peak == -torch.inf, 0.0, peak)
        self.total = parallel.total(self.total * (self.peak - base).exp2())
        self.peak = peak
        return self

    def bits(self) -> Tensor:
        """Return the logarithms, -inf for an empty sum."""
        return torch.where(self.total == 0, -torch.inf, self.peak + self.total.log2())
