"""The sums behind `dual_lse`, in two ways with one answer: Shared is fast, Apart is right for any input.

Each way has `sums`, a pass over the tiles, and `gradient`, the function from a tile to its gradient. Pairs fall
in groups: the kept, and with `split` the excluded, too. Sums are [G, n + M]: of each group's rows, then of its
columns (those of all ranks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.tiles import LN2, Strip

Group = tuple[Tensor, Tensor]  # of one group: a value per row [n] and per column of all ranks [M]
TileGradient = Callable[[int, Tensor, slice, slice], Tensor]  # (number, tile, rows, cols) -> [h, w]
SPARE_BITS = 20  # headroom above the largest exponential, for sums of a million of them
SAFE_BITS = 40  # a sum this far above underflow has lost less than 2^-40 of itself per pair


class Shared:
    """ONE exponential 2^(s - c) per pair serves its row and its column.

    The features' norms certify that it does not overflow. When a sum comes near underflow the way is given up.
    """

    def __init__(self, mask: Mask | None, split: bool) -> None:
        self.mask, self.split = mask, split
        self.kept: list[Tensor] = []  # tiles of exponentials that the backward need not make again
        self.dscales = (None, None)

    def sums(self, strip: Strip, fresh: int) -> Tensor | None:
        """Return the logarithms of the sums, in nats; None if a sum may have underflowed."""
        info, n = torch.finfo(strip.x.dtype), strip.x.shape[0]
        self.shift = max(0.0, strip.bound() - math.log2(info.max) + SPARE_BITS)
        totals = strip.x.new_zeros(2 if self.split else 1, n + strip.y.shape[0], dtype=torch.float64)
        for number, (rows, cols, tile) in enumerate(strip.tiles(fresh=fresh)):
            parts = self._parts(strip, self._exponentials(tile), rows, cols)
            for total, part in zip(totals, parts):
                total[rows].add_(part.sum(1))
                total[n + cols.start : n + cols.stop].add_(part.sum(0))
            if number < fresh:
                self.kept.append(tile.add_(parts[0]) if self.split else tile)
        totals = _over_ranks(totals, n)
        if self.shift > 0 and _any(totals < 2.0 ** (math.log2(info.tiny) + SAFE_BITS)):
            return None
        # What one exponential's bit means for the logarithm; finite where the sum is empty.
        self.shares = totals.clamp_min(2.0**6 * info.tiny).reciprocal_().mul_(LN2).to(strip.x.dtype)
        return totals.log_().add_(self.shift * LN2) if self.shift > 0 else totals.log_()

    def gradient(self, strip: Strip, gradients: Sequence[Group], made: int) -> TileGradient:
        """Return the function from a tile (exponentials, if its number is below `made`) to its gradient."""
        n = strip.x.shape[0]
        factors = [(row * share[:n], col * share[n:]) for (row, col), share in zip(gradients, self.shares)]

        def weighted(group: int, rows: slice, cols: slice, out: Tensor) -> Tensor:
            return torch.add(factors[group][0][rows, None], factors[group][1][cols], out=out)

        def gradient(number: int, tile: Tensor, rows: slice, cols: slice) -> Tensor:
            made_before = number < made
            if not made_before:
                self._exponentials(tile)
            if not self.split:
                kept = tile if made_before else self._parts(strip, tile, rows, cols)[0]
                return weighted(0, rows, cols, strip.scratch("spare", rows, cols)).mul_(kept)
            whole = strip.scratch("whole", rows, cols).copy_(tile) if made_before else tile
            kept, excluded = self._parts(strip, whole, rows, cols)
            excluded.mul_(weighted(1, rows, cols, strip.scratch("weights", rows, cols)))
            return excluded.addcmul_(kept, weighted(0, rows, cols, strip.scratch("weights", rows, cols)))

        return gradient

    def _exponentials(self, tile: Tensor) -> Tensor:
        if self.shift > 0:
            tile.sub_(self.shift)
        return tile.exp2_()

    def _parts(self, strip: Strip, tile: Tensor, rows: slice, cols: slice) -> tuple[Tensor, ...]:
        """Return the exponentials of each group; those of the last are in `tile`. Each is exact, as e - e = 0."""
        if self.mask is None:
            return (tile,)
        spare = strip.scratch("spare", rows, cols)
        if not self.split:
            self.mask.drop(tile, strip.at(rows), cols, spare)
            return (tile,)
        kept = self.mask.keep(strip.at(rows), cols, spare).mul_(tile)
        return kept, tile.sub_(kept)


class Apart:
    """Rows and columns have each their own running maximum, and their own temperatures if given.

    The sums are of exp(row_scale_i s_ij) by row and of exp(col_scale_j s_ij) by column; col_scale is of all columns.
    """

    def __init__(self, mask: Mask | None, split: bool, row_scale: Tensor | None, col_scale: Tensor | None) -> None:
        self.mask, self.split = mask, split
        self.scales = (row_scale, col_scale)
        self.kept: list[Tensor] = []
        self.dscales: tuple[Tensor | None, ...] = (None, None)

    def sums(self, strip: Strip) -> Tensor:
        """Return the logarithms of the sums, in nats; -inf where a sum is empty."""
        running = [(Running(strip.x), Running(strip.y)) for _ in range(2 if self.split else 1)]
        for rows, cols, tile in strip.tiles():
            for group, (row, col) in enumerate(running):
                row.add(rows, self._scaled(strip, tile, rows, cols, group, 0), 1)
                col.add(cols, self._scaled(strip, tile, rows, cols, group, 1), 0)
        bits = torch.stack([torch.cat([row.bits(), col.over_ranks().bits()]) for row, col in running])
        finite = torch.where(bits == -torch.inf, torch.inf, bits).to(strip.x.dtype)
        self.bits = [(each[: strip.x.shape[0]], each[strip.x.shape[0] :]) for each in finite]
        return bits * LN2

    def gradient(self, strip: Strip, gradients: Sequence[Group], made: int) -> TileGradient:
        """Return the function from a tile to its gradient; it adds up the scales' own in `dscales`."""
        self.dscales = tuple(None if scale is None else torch.zeros_like(scale) for scale in self.scales)

        def gradient(number: int, tile: Tensor, rows: slice, cols: slice) -> Tensor:
            out = strip.scratch("gradient", rows, cols).zero_()
            for group in range(len(self.bits)):
                for side, at in enumerate((rows, cols)):
                    part = self._scaled(strip, tile, rows, cols, group, side)
                    part.sub_(broadcast_along(self.bits[group][side][at], side)).exp2_()
                    part.mul_(broadcast_along(gradients[group][side][at] * LN2, side))
                    out.add_(self._through_scale(tile, part, at, side))
            return out

        return gradient

    def _scaled(self, strip: Strip, tile: Tensor, rows: slice, cols: slice, group: int, side: int) -> Tensor:
        """Return the tile times its rows' (side 0) or columns' (1) scale, -inf outside the group, in scratch memory."""
        part, scale = strip.scratch("part", rows, cols), self.scales[side]
        if scale is None:
            part.copy_(tile)
        else:
            torch.mul(tile, broadcast_along(scale[rows if side == 0 else cols], side), out=part)
        if self.mask is None:
            return part
        spare = strip.scratch("spare", rows, cols)
        if group == 0:
            self.mask.drop(part, strip.at(rows), cols, spare, value=-torch.inf)
            return part
        return part.masked_fill_(self.mask.keep(strip.at(rows), cols, spare) == 1, -torch.inf)

    def _through_scale(self, tile: Tensor, part: Tensor, at: slice, side: int) -> Tensor:
        """Return the gradient of the tile from that of scale * tile, and add up the scale's."""
        scale, dscale = self.scales[side], self.dscales[side]
        if scale is None or dscale is None:
            return part
        dscale[at].add_((part * tile).sum(1 - side))
        return part.mul_(broadcast_along(scale[at], side))


class Running:
    """log2 of sums of 2^z that come in tiles: the largest z so far, and the sum relative to it."""

    def __init__(self, like: Tensor) -> None:
        self.peak = like.new_full((like.shape[0],), -torch.inf)
        self.total = _zeros(like)

    def add(self, at: slice, z: Tensor, dim: int) -> None:
        """Add a tile's sums along `dim`; z is overwritten."""
        old = self.peak[at]
        peak = torch.maximum(old, z.amax(dim))
        base = torch.where(peak == -torch.inf, 0.0, peak)
        more = z.sub_(base.unsqueeze(dim)).exp2_().sum(dim)
        self.total[at] = self.total[at] * (old - base).exp2() + more
        self.peak[at] = peak

    def over_ranks(self) -> Running:
        """Return the sums of all ranks together."""
        peak = parallel.maximum(self.peak)
        base = torch.where(peak == -torch.inf, 0.0, peak)
        self.total = parallel.total(self.total * (self.peak - base).exp2())
        self.peak = peak
        return self

    def bits(self) -> Tensor:
        """Return the logarithms, -inf for an empty sum."""
        return torch.where(self.total == 0, -torch.inf, self.peak + self.total.log2())


def _zeros(like: Tensor) -> Tensor:
    return like.new_zeros(like.shape[0], dtype=torch.float64)


def broadcast_along(vector: Tensor, side: int) -> Tensor:
    """Return a vector of rows (side 0) as a column, and one of columns as a row."""
    return vector[:, None] if side == 0 else vector


def _over_ranks(sums: Tensor, rows: int) -> Tensor:
    """Return [G, n + M] with the columns, all after the first `rows`, summed over ranks."""
    if parallel.world() > 1:
        sums[:, rows:] = parallel.total(sums[:, rows:])
    return sums


def _any(flags: Tensor) -> bool:
    """Say whether a flag is up on any rank."""
    return bool(parallel.maximum(flags.any().float()))
