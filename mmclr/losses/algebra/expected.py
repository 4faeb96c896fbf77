"""Softmax-weighted mean similarity per row and column: a cost seen through its own softmax, hardness weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra.lse import Exclude, as_mask
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.sums import Apart, Shared, broadcast_along
from mmclr.losses.algebra.tiles import LN2, Sides, Strip, alike, as_number, full_precision, once


class Expected(NamedTuple):
    """The result of `expected`."""

    row: (
        Tensor  # [n] sum_j p_ij c_ij with p_i = softmax_j(scale * c_ij) over the pairs not excluded; 0 if there is none
    )
    col: Tensor  # [m] likewise down each of this rank's columns


@full_precision
def expected(
    x: Tensor, y: Tensor, scale: Tensor | float = 1.0, *, exclude: Exclude = None, detach: bool = False
) -> Expected:
    """Return the mean of c = x y^T per row and column over all ranks, weighted by the softmax of scale * c.

    x [n, D] and y [m, D] are this rank's rows; as many as ranks like. With `detach` the weights are constants.
    Differentiable once, in x and y.
    """
    x, y = alike(x, y)
    return Expected(*_Expected.apply(x, y, as_number(scale, x), as_mask(exclude), detach))


class _Expected(torch.autograd.Function):
    """First the denominators, then the means: two passes forward, one back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, mask: Mask | None, detach: bool
    ) -> tuple[Tensor, Tensor]:
        strip = Strip(x, y, scale)
        sums = Shared(mask, False).sums(strip, 0)
        sums = Apart(mask, False, None, None).sums(strip) if sums is None else sums
        bits = torch.where(sums == -torch.inf, torch.inf, sums / LN2)[0].split([x.shape[0], strip.y.shape[0]])
        means, weights = ([torch.zeros_like(lse) for lse in bits] for _ in range(2))
        bits = tuple(lse.to(x.dtype) for lse in bits)
        for rows, cols, tile in (cosines := _cosines(x, strip.y, strip.sides)).tiles():
            for side, at in enumerate((rows, cols)):
                p = _softmax(cosines, tile, rows, cols, strip.factor, bits, mask, side)
                weights[side][at].add_(p.sum(1 - side))
                means[side][at].add_(p.mul_(tile).sum(1 - side))
        means[1], weights[1] = parallel.total(means[1]), parallel.total(weights[1])
        # A rounded denominator makes all weights of a row wrong alike, and the backward multiplies by the scale what
        # that adds to c - mean: so the weights are made to add up to 1.
        weights = [torch.where(total == 0, 1.0, total) for total in weights]
        row, every_col = (mean.div_(total).to(x.dtype) for mean, total in zip(means, weights))
        ctx.mask, ctx.detach, ctx.sides = mask, detach, strip.sides
        ctx.save_for_backward(x, strip.y, scale, *bits, row, every_col, *(total.to(x.dtype) for total in weights))
        ctx.set_materialize_grads(False)
        return row.clone(), strip.own(every_col).clone()

    @staticmethod
    @once
    def backward(ctx: Any, row: Tensor | None, col: Tensor | None) -> tuple[Tensor | None, ...]:
        x, every_y, scale, *rest = ctx.saved_tensors
        bits, means, weights = rest[:2], rest[2:4], rest[4:]
        strip = _cosines(x, every_y, ctx.sides)
        strip.collect_into(*ctx.needs_input_grad[:2])
        gradients = [each / total for each, total in zip(strip.gradients_of(row, col), weights)]
        for rows, cols, tile in strip.tiles():
            whole = strip.scratch("whole", rows, cols).zero_()
            for side, at in enumerate((rows, cols)):
                p = _softmax(strip, tile, rows, cols, scale / LN2, bits, ctx.mask, side)
                p.mul_(broadcast_along(gradients[side][at], side))
                if not ctx.detach:
                    # d/dc_ij sum_j p_ij c_ij = p_ij (1 + scale (c_ij - mean_i))
                    spare = torch.sub(
                        tile, broadcast_along(means[side][at], side), out=strip.scratch("spare", rows, cols)
                    )
                    p.mul_(spare.mul_(scale).add_(1))
                whole.add_(p)
            strip.collect(whole, rows, cols)
        dx, dy, _ = strip.gradients()
        return dx, dy, None, None, None


def _cosines(x: Tensor, every_y: Tensor, sides: Sides) -> Strip:
    """Return the strip whose tiles are plain x y^T."""
    return Strip(x, every_y, x.new_tensor(LN2), sides=sides)


def _softmax(
    strip: Strip,
    tile: Tensor,
    rows: slice,
    cols: slice,
    factor: Tensor,
    bits: tuple[Tensor, ...],
    mask: Mask | None,
    side: int,
) -> Tensor:
    """Return the softmax of a tile by row (side 0) or column (1) from its denominators, in scratch memory."""
    p = torch.mul(tile, factor, out=strip.scratch("part", rows, cols))
    p.sub_(broadcast_along(bits[side][rows if side == 0 else cols], side))
    if mask is not None:
        mask.drop(p, strip.at(rows), cols, strip.scratch("spare", rows, cols), value=-torch.inf)
    return p.exp2_()
