"""log-sum-exp of every row and every column of scale * x y^T, differentiable, in one pass over its tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr.losses.algebra import masks
from mmclr.losses.algebra.sums import Apart, Shared
from mmclr.losses.algebra.tiles import (
    KEEP_BYTES,
    Strip,
    add_pairs,
    alike,
    as_number,
    full_precision,
    once,
    pair_cosines,
)

Exclude = masks.Mask | Callable[[slice, slice], Tensor] | None


class Lse(NamedTuple):
    """The result of `dual_lse`; columns are this rank's, too."""

    row: Tensor  # [n] log sum_j exp s_ij over the pairs that are not excluded; -inf for an empty sum
    col: Tensor  # [m] log sum_i exp s_ij over the same pairs
    pair: Tensor  # [n] s_ii; [0] where there are not as many columns as rows
    excluded_row: Tensor  # [n] log sum_j exp s_ij over the excluded pairs; [0] without split=True
    excluded_col: Tensor  # [m] likewise per column


@full_precision
def dual_lse(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float = 1.0,
    *,
    exclude: Exclude = None,
    split: bool = False,
    row_scale: Tensor | None = None,
    col_scale: Tensor | None = None,
    shared: bool = False,
    keep_bytes: int = KEEP_BYTES,
) -> Lse:
    """Return the log-sum-exp per row and per column of s = scale * x y^T over the pairs of all ranks.

    x [n, D] and y [m, D] are this rank's rows; as many as ranks like. `exclude` leaves pairs out, and
    `split` returns their sums, too. row_scale [n] and col_scale [m] multiply s in the row sums and in the column
    sums. With `shared`, y is the same on all ranks (a queue). Tiles of up to `keep_bytes` are kept for the backward,
    3 matmuls instead of 4. Differentiable once, in x, y, scale, row_scale and col_scale.
    """
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"dual_lse wants [n, D] and [m, D], got {list(x.shape)} and {list(y.shape)}")
    mask = as_mask(exclude)
    plan = _Plan(mask, split and mask is not None, shared, keep_bytes, torch.is_grad_enabled())
    x, y = alike(x, y)
    scale = as_number(scale, x)
    return Lse(*_DualLse.apply(x, y, scale, row_scale, col_scale, plan))


def merge(one: Tensor, other: Tensor) -> Tensor:
    """Return the log-sum-exp of two sets of columns from those of each: log(exp one + exp other), elementwise.

    So a queue's columns or an anchor's own extra logits join a row. Unlike logaddexp's, the gradient of two empty
    sets is 0, not NaN.
    """
    empty = torch.maximum(one, other) == -torch.inf
    joined = torch.logaddexp(torch.where(empty, 0.0, one), torch.where(empty, 0.0, other))
    return torch.where(empty, -torch.inf, joined)


def as_mask(exclude: Exclude) -> masks.Mask | None:
    """Return the mask that an `exclude` argument means."""
    return exclude if exclude is None or isinstance(exclude, masks.Mask) else masks.Where(exclude)


@dataclass(frozen=True)
class _Plan:
    mask: masks.Mask | None
    split: bool
    shared: bool
    keep_bytes: int
    differentiate: bool


class _DualLse(torch.autograd.Function):
    """Saves O(B) vectors; the backward makes the tiles again, or takes those that were kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, row_scale: Tensor | None, col_scale: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, ...]:
        strip = Strip(x, y, scale, shared=plan.shared)
        ctx.sides = strip.sides
        way, sums = _sums(strip, plan, row_scale, col_scale)
        ctx.plan, ctx.way = plan, way
        ctx.set_materialize_grads(False)
        n = x.shape[0]
        lse = [(group[:n], strip.own(group[n:])) for group in sums.to(x.dtype)]
        nothing = x.new_empty(0)
        cosines = pair_cosines(x, y) if x.shape[0] == y.shape[0] and not plan.shared else nothing
        ctx.save_for_backward(x, y, strip.y, scale, cosines, *way.kept)
        way.kept = []
        return *lse[0], cosines * scale, *(lse[1] if plan.split else (nothing, nothing))

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, every_y, scale, cosines, *kept = ctx.saved_tensors
        strip = Strip(x, every_y, scale, shared=ctx.plan.shared, sides=ctx.sides)
        strip.collect_into(ctx.needs_input_grad[0] or ctx.needs_input_grad[2], ctx.needs_input_grad[1])
        gradients = [strip.gradients_of(*of) for of in (grads[:2], grads[3:])[: 1 + ctx.plan.split]]
        of_tile = ctx.way.gradient(strip, gradients, len(kept))
        for number, (rows, cols, tile) in enumerate(strip.tiles(kept)):
            strip.collect(of_tile(number, tile, rows, cols), rows, cols)
        whole = add_pairs(strip.gradients(), grads[2], x, y, scale, cosines)
        drow, dcol = ctx.way.dscales
        return *whole, drow, None if dcol is None else strip.hand_back(dcol), None


def _sums(
    strip: Strip, plan: _Plan, row_scale: Tensor | None, col_scale: Tensor | None
) -> tuple[Shared | Apart, Tensor]:
    """Return the way that was taken and its sums."""
    if row_scale is None and col_scale is None:
        shared = Shared(plan.mask, plan.split)
        sums = shared.sums(strip, strip.affordable(plan.keep_bytes) if plan.differentiate else 0)
        if sums is not None:
            return shared, sums
    apart = Apart(plan.mask, plan.split, row_scale, None if col_scale is None else strip.complete(col_scale))
    return apart, apart.sums(strip)
