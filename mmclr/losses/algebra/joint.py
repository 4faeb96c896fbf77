"""Sums over pairs of functions of several products: a temperature, or a margin, of each pair its own.

A function sees a tile at a time, and autograd differentiates it there. Its arguments, in this order: a tile [h, w] of
each product x y^T, a column [h, 1] of each vector of rows, a row [w] of each vector of columns, and a constant tile
[h, w] of each of `pairs`, which a function of (rows, columns), slices of global numbers, returns: what belongs to two
samples (a weight, its logarithm, a draw). What the function uses beside its arguments is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra.lse import Exclude, as_mask
from mmclr.losses.algebra.masks import Mask
from mmclr.losses.algebra.sums import Running, broadcast_along
from mmclr.losses.algebra.tiles import LN2, Sides, Strip, alike, full_precision, once
from mmclr.losses.algebra.weighted import TileWeight

PairFunction = Callable[..., Tensor]  # the arguments above -> [h, w], each pair for itself
Place = tuple[slice, slice, list[Tensor]]  # rows, columns, the tiles of all products


class Joint(NamedTuple):
    """The result of `joint_lse`; columns are this rank's, too."""

    row: Tensor  # [n] log sum_j exp z_ij over the pairs that are not excluded; -inf for an empty sum
    col: Tensor  # [m] log sum_i exp z_ij over the same pairs


class JointSum(NamedTuple):
    """The result of `joint_sum`; columns are this rank's, too."""

    row: Tensor  # [n] sum_j f_ij over the pairs of the mask
    col: Tensor  # [m] sum_i f_ij over the same pairs
    row_count: Tensor  # [n] how many they are in each row, without gradient
    col_count: Tensor  # [m] likewise per column


def joint_lse(
    products: Sequence[tuple[Tensor, Tensor]],
    logit: PairFunction,
    *,
    rows: Sequence[Tensor] = (),
    cols: Sequence[Tensor] = (),
    pairs: Sequence[TileWeight] = (),
    exclude: Exclude = None,
) -> Joint:
    """Return the log-sum-exp per row and column of z = logit(products, rows, cols, pairs) over the pairs of all ranks.

    x_k [n, D_k] and y_k [m, D_k] are this rank's rows, and so are the vectors, `rows` [n] and `cols` [m]; as many as
    ranks like. `pairs` return constant tiles; the logarithm of a weight may be -inf there. Differentiable once, in all
    x_k, y_k and vectors.
    """
    mask = as_mask(exclude)
    return Joint(*_start(*_flat(products), vectors=[*rows, *cols], plan=_Plan(logit, mask, len(rows), tuple(pairs))))


def joint_sum(
    products: Sequence[tuple[Tensor, Tensor]],
    function: PairFunction,
    *,
    rows: Sequence[Tensor] = (),
    cols: Sequence[Tensor] = (),
    pairs: Sequence[TileWeight] = (),
    only: Exclude = None,
) -> JointSum:
    """Return the sums per row and column of f = function(products, rows, cols, pairs) over the pairs of all ranks.

    Arguments as in `joint_lse`; `only` names the pairs that count: as a mask, those that it would leave out elsewhere.
    f and its derivative are finite for all pairs. Differentiable once, in all x_k, y_k and vectors.
    """
    plan = _Plan(function, as_mask(only), len(rows), tuple(pairs), lse=False)
    return JointSum(*_start(*_flat(products), vectors=[*rows, *cols], plan=plan))


@dataclass(frozen=True)
class _Plan:
    function: PairFunction
    mask: Mask | None
    rows: int  # how many vectors there are of rows; the others are of columns
    pairs: tuple[TileWeight, ...]
    lse: bool = True


def _flat(products: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [side for pair in products for side in pair]


@full_precision
def _start(*sides: Tensor, vectors: Sequence[Tensor], plan: _Plan) -> tuple[Tensor, ...]:
    wide = alike(*sides)
    function = _JointLse if plan.lse else _JointSum
    found: tuple[Tensor, ...] = function.apply(plan, len(wide), *wide, *(vector.to(wide[0]) for vector in vectors))
    return found


class _Tiles:
    """The tiles of all products, one place after another, with the function's other arguments there."""

    def __init__(self, plan: _Plan, xs: Sequence[Tensor], ys: Sequence[Tensor], sides: Sides | None = None) -> None:
        self.plan = plan
        self.strips = [Strip(x, y, x.new_tensor(LN2), sides=sides) for x, y in zip(xs, ys)]  # of plain x y^T
        self.first = self.strips[0]

    def take(self, vectors: Sequence[Tensor]) -> None:
        """Take in the vectors, those of columns of all ranks."""
        self.rows, self.cols = vectors[: self.plan.rows], vectors[self.plan.rows :]

    def places(self) -> Iterator[Place]:
        """Yield each place with the tiles of all products there, which the next one overwrites."""
        for together in zip(*(strip.tiles() for strip in self.strips)):
            yield together[0][0], together[0][1], [tile for _, _, tile in together]

    def arguments(self, rows: slice, cols: slice, tiles: list[Tensor]) -> list[Tensor]:
        """Return what the function is differentiated in: tiles and vectors."""
        return [*tiles, *(v[rows, None] for v in self.rows), *(v[cols] for v in self.cols)]

    def value(self, rows: slice, cols: slice, arguments: Sequence[Tensor]) -> Tensor:
        """Return the function's value, [h, w]."""
        constant = [pair(self.first.at(rows), cols).to(self.first.x) for pair in self.plan.pairs]
        return self.plan.function(*arguments, *constant).expand(rows.stop - rows.start, cols.stop - cols.start)

    def drop(self, tile: Tensor, rows: slice, cols: slice, value: float) -> Tensor:
        """Set a tile to `value` at the pairs of the mask, in place."""
        if self.plan.mask is not None:
            spare = self.first.scratch("spare", rows, cols)
            self.plan.mask.drop(tile, self.first.at(rows), cols, spare, value=value)
        return tile

    def inside(self, rows: slice, cols: slice) -> Tensor:
        """Return 1 at the pairs of the mask, everywhere without one, and 0 elsewhere, in scratch memory."""
        out = self.first.scratch("spare", rows, cols)
        if self.plan.mask is None:
            return out.fill_(1)
        return self.plan.mask.keep(self.first.at(rows), cols, out).neg_().add_(1)

    def differentiate(self, needed: Sequence[bool], slope: Callable[[slice, slice, Tensor], Tensor]) -> list[Any]:
        """Return the gradients of sides and vectors, None where not `needed`.

        `slope` returns that of the function's values at a place, from these.
        """
        of_sides, of_vectors = needed[: 2 * len(self.strips)], needed[2 * len(self.strips) :]
        for strip, x, y in zip(self.strips, of_sides[::2], of_sides[1::2]):
            strip.collect_into(x, y)
        vectors = [torch.zeros_like(v, dtype=torch.float64) for v in (*self.rows, *self.cols)]
        wanted = [any(pair) for pair in zip(of_sides[::2], of_sides[1::2])] + list(of_vectors)
        for rows, cols, tiles in self.places():
            leaves = [
                x.detach().clone().requires_grad_(need) for x, need in zip(self.arguments(rows, cols, tiles), wanted)
            ]
            with torch.enable_grad():
                value = self.value(rows, cols, leaves)
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(value, asked, slope(rows, cols, value.detach()), allow_unused=True))
            gradients = [next(found) if leaf.requires_grad else None for leaf in leaves]
            for strip, gradient in zip(self.strips, gradients):
                if gradient is not None:
                    strip.collect(gradient, rows, cols)
            for number, gradient in enumerate(gradients[len(self.strips) :]):
                if gradient is not None:
                    vectors[number][rows if number < self.plan.rows else cols].add_(gradient.flatten())
        return [*(g for strip in self.strips for g in strip.gradients()[:2]), *self._handed_back(vectors, of_vectors)]

    def _handed_back(self, vectors: list[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
        of_rows, of_cols = vectors[: self.plan.rows], vectors[self.plan.rows :]
        whole = [*of_rows, *(self.first.hand_back(v) for v in of_cols)]
        return [v.to(self.first.x.dtype) if need else None for v, need in zip(whole, needed)]


def _begin(ctx: Any, plan: _Plan, sides: int, tensors: Sequence[Tensor]) -> _Tiles:
    """Return the tiles of a forward, and keep what the backward makes them of."""
    tiles = _Tiles(plan, tensors[:sides:2], tensors[1:sides:2])
    rows, cols = tensors[sides : sides + plan.rows], tensors[sides + plan.rows :]
    tiles.take([*rows, *(tiles.first.complete(col) for col in cols)])
    ctx.plan, ctx.sides, ctx.products = plan, tiles.first.sides, len(tiles.strips)
    ctx.set_materialize_grads(False)
    return tiles


def _again(ctx: Any) -> tuple[_Tiles, list[Tensor]]:
    """Return the tiles of a forward once more, and what it kept beside them."""
    saved, count = ctx.saved_tensors, ctx.products
    tiles = _Tiles(ctx.plan, saved[:count], saved[count : 2 * count], ctx.sides)
    end = len(ctx.needs_input_grad) - 2  # of sides and vectors, which are the inputs but two
    tiles.take(saved[2 * count : end])
    return tiles, list(saved[end:])


def _kept(tiles: _Tiles) -> list[Tensor]:
    return [*(s.x for s in tiles.strips), *(s.y for s in tiles.strips), *tiles.rows, *tiles.cols]


class _JointLse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, sides: int, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        tiles = _begin(ctx, plan, sides, tensors)
        first = tiles.first
        row, col = Running(first.x), Running(first.y)
        for rows, cols, made in tiles.places():
            z = tiles.value(rows, cols, tiles.arguments(rows, cols, made))
            bits = tiles.drop(z / LN2, rows, cols, -torch.inf)
            row.add(rows, bits.clone(), 1)
            col.add(cols, bits, 0)
        sums = [side.bits() * LN2 for side in (row, col.over_ranks())]
        ctx.save_for_backward(*_kept(tiles), *sums)
        return sums[0].to(first.x.dtype), first.own(sums[1]).to(first.x.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, of_row: Tensor | None, of_col: Tensor | None) -> tuple[Tensor | None, ...]:
        tiles, sums = _again(ctx)
        gradients = tiles.first.gradients_of(of_row, of_col)
        ends = [torch.where(lse == -torch.inf, torch.inf, lse).to(tiles.first.x.dtype) for lse in sums]

        def slope(rows: slice, cols: slice, z: Tensor) -> Tensor:
            logits = tiles.drop(z.clone(), rows, cols, -torch.inf)
            total = torch.zeros_like(logits)
            for side, at in enumerate((rows, cols)):
                share = (logits - broadcast_along(ends[side][at], side)).exp()
                total += broadcast_along(gradients[side][at], side) * share
            return total

        return None, None, *tiles.differentiate(ctx.needs_input_grad[2:], slope)


class _JointSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, sides: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        tiles = _begin(ctx, plan, sides, tensors)
        first = tiles.first
        row, row_count = first.x.new_zeros(2, first.x.shape[0], dtype=torch.float64)
        col, col_count = first.x.new_zeros(2, first.y.shape[0], dtype=torch.float64)
        for rows, cols, made in tiles.places():
            value = tiles.value(rows, cols, tiles.arguments(rows, cols, made))
            inside = tiles.inside(rows, cols)
            value = value.masked_fill(inside == 0, 0.0)
            for each, by_row, by_col in ((inside, row_count, col_count), (value, row, col)):
                by_row[rows].add_(each.sum(1))
                by_col[cols].add_(each.sum(0))
        ctx.save_for_backward(*_kept(tiles))
        found = row, first.own(parallel.total(col)), row_count, first.own(parallel.total(col_count))
        out = tuple(values.to(first.x.dtype) for values in found)
        ctx.mark_non_differentiable(*out[2:])
        return out

    @staticmethod
    @once
    def backward(ctx: Any, of_row: Tensor | None, of_col: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        tiles, _ = _again(ctx)
        by_row, by_col = tiles.first.gradients_of(of_row, of_col)

        def slope(rows: slice, cols: slice, value: Tensor) -> Tensor:
            return tiles.inside(rows, cols).mul_(by_row[rows, None] + by_col[cols])

        return None, None, *tiles.differentiate(ctx.needs_input_grad[2:], slope)
