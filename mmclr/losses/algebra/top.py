"""The k largest similarities of every row over the columns of all ranks, streamed; and those to given columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr.losses.algebra.lse import Exclude, as_mask
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.tiles import LN2, Strip, alike, as_number, full_precision, once


class Top(NamedTuple):
    """The result of `top`; of equal values the lower column comes first."""

    values: Tensor  # [n, k] similarities from the largest down; -inf where a row has fewer than k columns left
    columns: Tensor  # [n, k] int64, their global numbers; without meaning where the value is -inf


@full_precision
def top(
    x: Tensor, y: Tensor, k: int, scale: Tensor | float = 1.0, *, exclude: Exclude = None, shared: bool = False
) -> Top:
    """Return the k largest s_ij = scale * <x_i, y_j> of each row over all ranks' columns that are not excluded.

    x [n, D] and y [m, D] are this rank's rows; with `shared`, y is the same on all ranks. k is cut to the number of
    columns. Values are differentiable once, in x, y and scale; which columns are chosen is not.
    """
    x, y = alike(x, y)
    return Top(*_Top.apply(x, y, as_number(scale, x), k, as_mask(exclude), shared))


class _Top(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, k: int, mask: Mask | None, shared: bool
    ) -> tuple[Tensor, Tensor]:
        strip = Strip(x, y, scale, shared=shared)
        k = min(k, strip.y.shape[0])
        values = x.new_full((x.shape[0], k), -torch.inf)
        columns = torch.zeros(x.shape[0], k, dtype=torch.int64, device=x.device)
        for rows, cols, tile in strip.tiles():
            if mask is not None:
                mask.drop(tile, strip.at(rows), cols, strip.scratch("spare", rows, cols), value=-torch.inf)
            numbers = torch.arange(cols.start, cols.stop, device=x.device).expand_as(tile)
            found = torch.cat([values[rows], tile], 1), torch.cat([columns[rows], numbers], 1)
            chosen = _largest(found[0], k)
            values[rows], columns[rows] = (part.gather(1, chosen) for part in found)
        ctx.shared, ctx.sides = shared, strip.sides
        ctx.save_for_backward(x, strip.y, scale, columns, values)
        ctx.mark_non_differentiable(columns)
        return values * LN2, columns

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, every_y, scale, columns, values = ctx.saved_tensors
        strip = Strip(x, every_y, scale, shared=ctx.shared, sides=ctx.sides)
        grad = torch.where(values == -torch.inf, 0.0, grad)
        # <x_i, y_j> is linear in each: the gradient of x is a weighted bag of y's rows, and the other way round.
        bag = F.embedding_bag(columns, every_y, per_sample_weights=grad, mode="sum")
        dscale = (x * bag).sum(dtype=torch.float64).to(scale.dtype)
        order = columns.flatten().argsort(stable=True)
        starts = torch.searchsorted(columns.flatten()[order], torch.arange(len(every_y), device=x.device))
        of_y = F.embedding_bag(
            order // columns.shape[1], x, starts, per_sample_weights=grad.flatten()[order], mode="sum"
        )
        return bag * scale, strip.hand_back(of_y * scale), dscale, None, None, None


@full_precision
def chosen(x: Tensor, every: Tensor, columns: Tensor) -> Tensor:
    """Return <x_i, y_j> for the columns j of each row, [n, k], in O(n k + n D) memory.

    x [n, D] are this rank's rows, every [M, D] the columns of all ranks, constants; columns int64 [n, k] are their
    global numbers. Differentiable once, in x.
    """
    x, every = alike(x, every.detach())
    return _Chosen.apply(x, every, columns)


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, every: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(every, columns)
        out = x.new_empty(columns.shape)
        for place in range(columns.shape[1]):  # [n, k, D] would be too much
            out[:, place] = (x * every[columns[:, place]]).sum(1)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        every, columns = ctx.saved_tensors
        return F.embedding_bag(columns, every, per_sample_weights=grad, mode="sum"), None, None


def _largest(values: Tensor, k: int) -> Tensor:
    """Return the positions of the k largest of each row, equal values by position: topk alone promises no order."""
    found = values.topk(k, dim=1)
    last = found.values[:, -1:]
    unsure = ((values >= last).sum(1) > k) | (found.values[:, 1:] == found.values[:, :-1]).any(1)
    if unsure.any():
        found.indices[unsure] = values[unsure].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return found.indices
