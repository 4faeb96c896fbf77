"""Sums over all pairs of softplus(s_ij + bias): the sigmoid family.

No denominator has to be known first, so the gradient is made in the forward pass: 3 matmuls, each tile once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra.lse import Exclude, as_mask
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.tiles import LN2, Strip, add_pairs, alike, as_number, full_precision, once, pair_cosines

CAP = 64.0  # bits; beyond, softplus(l) is l and its derivative 1, in float64, too
FOLDS = 3  # halvings of a tile before its logarithms are taken, at most: they cost more than all else but the matmuls


class PairSum(NamedTuple):
    """The result of `pair_sum`."""

    total: Tensor  # [] the sum over the pairs of all ranks that are not excluded, the same on every rank
    pair: Tensor  # [n] s_ii + bias; [0] where there are not as many columns as rows


@full_precision
def pair_sum(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float = 1.0,
    bias: Tensor | float = 0.0,
    *,
    exclude: Exclude = None,
    weights: tuple[Tensor, Tensor] | None = None,
) -> PairSum:
    """Return sum_ij w_ij softplus(s_ij + bias) with s = scale * x y^T over the pairs of all ranks.

    x [n, D] and y [m, D] are this rank's rows; as many as ranks like. w_ij = weights[0]_i + weights[1]_j,
    which are [n] and [m] and have no gradient; 1 without. Differentiable once, in x, y, scale and bias.
    """
    x, y = alike(x, y)
    scale, bias = (as_number(v, x) for v in (scale, bias))
    plan = _Plan(as_mask(exclude), weights, torch.is_grad_enabled())
    total, pair = _PairSum.apply(x, y, scale, bias, plan)
    return PairSum(total, pair + bias)


class _Plan(NamedTuple):
    mask: Mask | None
    weights: tuple[Tensor, Tensor] | None
    differentiate: bool


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
        strip = Strip(x, y, scale)
        ctx.sides = strip.sides
        total, ctx.made = _sweep(strip, bias, plan, ctx.needs_input_grad if plan.differentiate else [False] * 4)
        ctx.plan = plan
        cosines = pair_cosines(x, y) if x.shape[0] == y.shape[0] else x.new_empty(0)
        ctx.save_for_backward(x, y, scale, bias, cosines)
        ctx.set_materialize_grads(False)
        return parallel.total(total).to(x.dtype), cosines * scale

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor | None, grad_pair: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, scale, bias, cosines = ctx.saved_tensors
        # The first backward takes the gradients over, in place; a second makes them anew.
        made = (
            ctx.made or _sweep(Strip(x, y, scale, sides=ctx.sides, own=True), bias, ctx.plan, ctx.needs_input_grad)[1]
        )
        ctx.made = None
        # The total is a sum over ranks, and so is the gradient of what each of them added.
        grad = scale.new_zeros(()) if grad is None else parallel.total(grad)
        dx, dy, dscale, dbias = (None if d is None else d.mul_(grad) for d in made)
        return *add_pairs((dx, dy, dscale), grad_pair, x, y, scale, cosines), dbias, None


class _Weights(NamedTuple):
    """w_ij = row_i + col_j, or one number for all pairs: two passes over a tile less."""

    row: Tensor  # [n]
    col: Tensor  # [M], of all ranks
    same: float | None

    @classmethod
    def of(cls, strip: Strip, weights: tuple[Tensor, Tensor] | None) -> _Weights:
        if weights is None:
            return cls(strip.x.new_zeros(0), strip.x.new_zeros(0), 1.0)
        row, col = (w.detach().to(strip.x) for w in weights)
        every_row, every_col = (rows.gather(w) for rows, w in zip(strip.sides, (row, col)))
        if (every_row == every_row[:1]).all() and (every_col == every_col[:1]).all():
            return cls(row, every_col, float(every_row[:1].sum() + every_col[:1].sum()))
        return cls(row, every_col, None)


def _sweep(strip: Strip, bias: Tensor, plan: _Plan, needed: Sequence[bool]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return this rank's part of the sum, and its gradients in x, y, scale and bias where they are needed."""
    weights, mask = _Weights.of(strip, plan.weights), plan.mask
    strip.collect_into(needed[0] or needed[2], needed[1])
    total, slope = strip.x.new_zeros(2, dtype=torch.float64)
    offset = bias / LN2
    largest = max(0.0, strip.bound() + float(offset))  # logit, in bits
    folds = min(FOLDS, int(math.log2(120 / (largest + 1)))) if weights.same is not None and largest <= CAP else 0
    for rows, cols, tile in strip.tiles():
        memory, spare = strip.scratch("value", rows, cols), strip.scratch("spare", rows, cols)
        drop = None if mask is None else partial(mask.drop, rows=strip.at(rows), cols=cols, spare=spare)
        value = softplus(tile.add_(offset), memory, spare, largest > CAP, folds, drop)
        if weights.same is None:
            weight = torch.add(weights.row[rows, None], weights.col[cols], out=spare)
            value.mul_(weight)
            tile.mul_(weight)
        total += value.sum(1).sum(dtype=torch.float64)
        slope += tile.sum(1).sum(dtype=torch.float64)
        strip.collect(tile, rows, cols, times=LN2 * (1.0 if weights.same is None else weights.same))
    same = 1.0 if weights.same is None else weights.same
    return total * same, (*strip.gradients(), (slope * same).to(bias.dtype) if needed[3] else None)


def softplus(
    tile: Tensor, memory: Tensor, spare: Tensor, capped: bool, folds: int, drop: Callable[[Tensor], None] | None
) -> Tensor:
    """Return softplus(l), and write its derivative to `tile`, which holds l in bits: one exponential for both.

    With e = exp l: softplus = log1p(e), derivative = e / (1 + e). `capped` cuts l at CAP and adds the rest. `drop`
    zeroes pairs: both are 0 where e is. With `folds` the result has 2^folds times fewer numbers, and the same sum.
    """
    if capped:
        torch.clamp(tile, max=CAP, out=spare)
        torch.sub(tile, spare, out=memory)
        tile.copy_(spare)
    tile.exp2_()
    for part in (tile, memory) if capped else (tile,):
        if drop is not None:
            drop(part)
    if capped:
        value = memory.mul_(LN2).add_(torch.log1p(tile, out=spare))
    else:
        few = _fold(tile, memory, folds)
        value = torch.log1p(few, out=memory[: len(few)])
    tile.div_(torch.add(tile, 1, out=spare))
    return value


def _fold(e: Tensor, memory: Tensor, folds: int) -> Tensor:
    """Return fewer numbers whose log1p have the same sum: log1p(a) + log1p(b) = log1p(a + b + a b)."""
    for _ in range(folds):
        if len(e) % 2:
            break
        a, b = e.chunk(2)
        e = torch.addcmul(a, a, b, out=memory[: len(a)]).add_(b)
    return e
