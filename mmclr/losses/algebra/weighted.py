"""Weighted sums of similarities per row and column: what soft targets need beside a log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra.tiles import LN2, Strip, alike, as_number, full_precision, once

TileWeight = Callable[[slice, slice], Tensor]  # (rows, cols), slices of global numbers -> [h, w], without gradient


class Weighted(NamedTuple):
    """The result of `weighted`; columns are this rank's, too."""

    row: Tensor  # [n] sum_j w_ij s_ij
    col: Tensor  # [m] sum_i w_ij s_ij
    row_total: Tensor  # [n] sum_j w_ij, without gradient
    col_total: Tensor  # [m] sum_i w_ij, without gradient


@full_precision
def low_rank(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return sum_j <u_i, v_j> <x_i, y_j> over the rows j of all ranks: [n], without a tile.

    x [n, D], y [m, D], u [n, R] and v [m, R] are this rank's rows; 4 m D R flop instead of 2 n M D. Differentiable.
    """
    x, y, u, v = alike(x, y, u, v)
    return ((x @ parallel.total(y.T @ v)) * u).sum(1)


@full_precision
def weighted(x: Tensor, y: Tensor, weight: TileWeight, scale: Tensor | float = 1.0) -> Weighted:
    """Return the sums of w_ij s_ij, s = scale * x y^T, per row and column over all ranks; any weights, tile by tile.

    x [n, D] and y [m, D] are this rank's rows; as many as ranks like. Differentiable once, in x, y and scale.
    """
    x, y = alike(x, y)
    return Weighted(*_Weighted.apply(x, y, as_number(scale, x), weight))


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, weight: TileWeight) -> tuple[Tensor, ...]:
        strip = Strip(x, y, scale)
        row, row_total = x.new_zeros(2, x.shape[0], dtype=torch.float64)
        col, col_total = x.new_zeros(2, strip.y.shape[0], dtype=torch.float64)
        for rows, cols, tile in strip.tiles():
            w = weight(strip.at(rows), cols).to(x.dtype)
            for each, by_row, by_col in ((w, row_total, col_total), (tile.mul_(w), row, col)):
                by_row[rows].add_(each.sum(1))
                by_col[cols].add_(each.sum(0))
        ctx.weight, ctx.sides = weight, strip.sides
        ctx.save_for_backward(x, strip.y, scale)
        ctx.set_materialize_grads(False)
        found = row * LN2, strip.own(parallel.total(col)) * LN2, row_total, strip.own(parallel.total(col_total))
        out = tuple(values.to(x.dtype) for values in found)
        ctx.mark_non_differentiable(*out[2:])
        return out

    @staticmethod
    @once
    def backward(ctx: Any, row: Tensor | None, col: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        x, every_y, scale = ctx.saved_tensors
        strip = Strip(x, every_y, scale, sides=ctx.sides)
        strip.collect_into(ctx.needs_input_grad[0] or ctx.needs_input_grad[2], ctx.needs_input_grad[1])
        of_row, of_col = strip.gradients_of(row, col)
        for rows, cols in strip.places():
            w = ctx.weight(strip.at(rows), cols).to(x.dtype)
            share = torch.add(of_row[rows, None], of_col[cols], out=strip.scratch("spare", rows, cols))
            strip.collect(share.mul_(w), rows, cols, times=LN2)
        dx, dy, dscale = strip.gradients()
        return dx, dy, None if dscale is None else dscale.to(scale.dtype), None
