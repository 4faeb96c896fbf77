"""log-sum-exp of a logit that is a function of several products: a temperature, or a margin, of each pair its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr.losses.algebra.lse import Exclude, as_mask
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.sums import Running, broadcast_along
from mmclr.losses.algebra.tiles import LN2, Sides, Strip, alike, full_precision, once

Logit = Callable[..., Tensor]  # tiles [h, w] of each product -> logits [h, w], each pair for itself
Tile = tuple[slice, slice, list[Tensor]]  # rows, columns, the tiles of all products


class Joint(NamedTuple):
    """What `joint_lse` returns; columns are this rank's, too."""

    row: Tensor  # [n] log sum_j exp z_ij over the pairs that are not excluded; -inf for an empty sum
    col: Tensor  # [m] log sum_i exp z_ij over the same pairs


def joint_lse(products: Sequence[tuple[Tensor, Tensor]], logit: Logit, *, exclude: Exclude = None) -> Joint:
    """Return the log-sum-exp per row and column of z = logit(x_1 y_1^T, x_2 y_2^T, ...) over the pairs of all ranks.

    x_k [n, D_k] and y_k [m, D_k] are this rank's rows; as many as ranks like. `logit` is differentiated by autograd,
    a tile at a time; what it uses beside its arguments is constant. Differentiable once, in all x_k and y_k.
    """
    return Joint(*_start(*(side for pair in products for side in pair), logit=logit, mask=as_mask(exclude)))


@full_precision
def _start(*sides: Tensor, logit: Logit, mask: Mask | None) -> tuple[Tensor, Tensor]:
    row, col = _JointLse.apply(logit, mask, *alike(*sides))
    return row, col


class _JointLse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit: Logit, mask: Mask | None, *sides: Tensor) -> tuple[Tensor, Tensor]:
        strips = [_plain(x, y, None) for x, y in zip(sides[::2], sides[1::2])]
        row, col = Running(strips[0].x), Running(strips[0].y)
        for rows, cols, tiles in _together(strips):
            bits = _masked(strips[0], mask, logit(*tiles) / LN2, rows, cols)
            row.add(rows, bits.clone(), 1)
            col.add(cols, bits, 0)
        sums = [side.bits() * LN2 for side in (row, col.over_ranks())]
        ctx.logit, ctx.mask, ctx.sides = logit, mask, strips[0].sides
        ctx.save_for_backward(*sides[::2], *(strip.y for strip in strips), *sums)
        ctx.set_materialize_grads(False)
        return sums[0].to(strips[0].x.dtype), strips[0].own(sums[1]).to(strips[0].x.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, of_row: Tensor | None, of_col: Tensor | None) -> tuple[Tensor | None, ...]:
        *sides, row, col = ctx.saved_tensors
        strips = [_plain(x, y, ctx.sides) for x, y in zip(sides, sides[len(sides) // 2 :])]
        for number, strip in enumerate(strips):
            strip.collect_into(*ctx.needs_input_grad[2 + 2 * number : 4 + 2 * number])
        gradients = strips[0].gradients_of(of_row, of_col)
        ends = [torch.where(lse == -torch.inf, torch.inf, lse).to(strips[0].x.dtype) for lse in (row, col)]
        for rows, cols, tiles in _together(strips):
            leaves = [tile.clone().requires_grad_() for tile in tiles]
            with torch.enable_grad():
                z = ctx.logit(*leaves)
            logits = _masked(strips[0], ctx.mask, z.detach().clone(), rows, cols)
            slope = torch.zeros_like(logits)
            for side, at in enumerate((rows, cols)):
                slope += (
                    broadcast_along(gradients[side][at], side) * (logits - broadcast_along(ends[side][at], side)).exp()
                )
            for strip, gradient in zip(strips, torch.autograd.grad(z, leaves, slope)):
                strip.collect(gradient, rows, cols)
        return None, None, *(gradient for strip in strips for gradient in strip.gradients()[:2])


def _plain(x: Tensor, y: Tensor, sides: Sides | None) -> Strip:
    """Return the strip whose tiles are plain x y^T."""
    return Strip(x, y, x.new_tensor(LN2), sides=sides)


def _together(strips: list[Strip]) -> Iterator[Tile]:
    """Yield each place with the tiles of all strips there."""
    for places in zip(*(strip.tiles() for strip in strips)):
        yield places[0][0], places[0][1], [tile for _, _, tile in places]


def _masked(strip: Strip, mask: Mask | None, tile: Tensor, rows: slice, cols: slice) -> Tensor:
    if mask is not None:
        mask.drop(tile, strip.at(rows), cols, strip.scratch("spare", rows, cols), value=-torch.inf)
    return tile
