"""The similarity matrix as a strip of tiles: one matmul makes a tile for rows AND columns, then it is dropped.

A rank owns the rows x and sees the columns y of all ranks; y alone is gathered, so no pair is computed twice.
Tiles are in bits, s_ij = scale * log2(e) * <x_i, y_j>, because exp2 costs half of exp.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from mmclr import parallel

LN2 = math.log(2)
KEEP_BYTES = 16 << 20  # tiles that the backward need not make again; a small batch is made once
TILE = {"cpu": (768, 768), "cuda": (4096, 4096)}  # at most these rows and columns; 2 MiB stay in a CPU's cache

Sides = tuple[parallel.Rows, parallel.Rows]  # how many rows of x, and of y, each rank holds

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function of tensors outside autocast: similarities in half precision would not be worth training on."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def once(backward: Callable[P, T]) -> Callable[P, T]:
    """Run a backward in full precision, and refuse a graph through it: silence would be a wrong second derivative."""
    exact = full_precision(backward)

    @functools.wraps(backward)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.is_grad_enabled():
            raise RuntimeError("the streamed sums over pairs have no second derivative: leave out create_graph=True")
        return exact(*args, **kwargs)

    return run


def widen(x: Tensor) -> Tensor:
    """Return half-precision values as float32, differentiably; others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def alike(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return tensors widened to what the widest of them is, on the device of the first, differentiably."""
    wide = [widen(each) for each in (x, *others)]
    dtype = functools.reduce(torch.promote_types, [each.dtype for each in wide])
    return tuple(each.to(x.device, dtype) for each in wide)


def as_number(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor of the type and device of `like`; one of Python's is never rounded to float32."""
    return value.to(like) if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)


def blocks(count: int, size: int) -> list[slice]:
    """Cut `count` rows into blocks of about equal size, at most `size`; multiples of 16 suit BLAS."""
    if count == 0:
        return []
    step = -(-count // -(-count // size))
    step = min(size, (step + 15) // 16 * 16)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class Strip:
    """This rank's rows x [n, D] against the columns of all ranks, y [M, D].

    With `shared`, y is the same tensor on every rank (a queue, prototypes) and is not gathered. Ranks may hold
    different numbers of rows; `sides` tells how many, where a former strip of the same x and y found it out. Then y is
    that of all ranks, unless it is `own`.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        *,
        shared: bool = False,
        sides: Sides | None = None,
        own: bool = False,
    ) -> None:
        self.x, self.shared = x, shared
        if sides is None:
            of_x = parallel.rows_of(x.shape[0])
            sides, own = (of_x, of_x if shared else parallel.rows_of(y.shape[0])), True
        self.sides = sides  # of the rows, and of the columns, which a shared y does not need
        self.y = self.sides[1].gather(y) if own and not shared else y
        self.first = self.sides[0].first  # global number of this rank's first row
        self.factor = scale.to(x.dtype) / LN2
        height, width = TILE.get(x.device.type, TILE["cpu"])
        self.rows, self.cols = blocks(x.shape[0], height), blocks(self.y.shape[0], width)
        self._buffers: dict[str, Tensor] = {}
        self.dx: Tensor | None = None
        self.dy: Tensor | None = None

    def tiles(self, made: Sequence[Tensor] = (), fresh: int = 0) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows, columns and the tile of their similarities in bits, row block by row block.

        The first tiles come from `made` where a former pass kept them. The first `fresh` are the caller's to
        keep; the others are scratch that the next one overwrites.
        """
        given = iter(made)
        for rows, cols in self.places():
            tile = next(given, None)
            if tile is None:
                shape = (rows.stop - rows.start, cols.stop - cols.start)
                tile = self.x.new_empty(shape) if fresh > 0 else self.scratch("tile", rows, cols)
                torch.mm(self.scaled, self.y[cols].T, out=tile)
            fresh -= 1
            yield rows, cols, tile

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of each tile; `collect` may follow each."""
        for rows in self.rows:
            memory = self.scratch("scaled", rows, slice(0, self.x.shape[1]))
            self.scaled = torch.mul(self.x[rows], self.factor, out=memory)
            for cols in self.cols:
                yield rows, cols

    def scratch(self, name: str, rows: slice, cols: slice) -> Tensor:
        """Return memory for a tile [h, w]; the same each time for one name."""
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        memory = self._buffers.get(name)
        if memory is None or memory.numel() < math.prod(shape):
            memory = self._buffers[name] = self.x.new_empty(shape)
        return memory if memory.shape == shape else memory.view(-1)[: math.prod(shape)].view(shape)

    def affordable(self, keep_bytes: int) -> int:
        """Return how many tiles fit into `keep_bytes`."""
        if not (self.rows and self.cols):
            return 0
        return keep_bytes // (self.rows[0].stop * self.cols[0].stop * self.x.element_size())

    def at(self, rows: slice) -> slice:
        """Return the global numbers of this rank's `rows`."""
        return slice(self.first + rows.start, self.first + rows.stop)

    def bound(self) -> float:
        """Return a number that no |similarity| of any rank exceeds, in bits."""
        norms = [
            torch.linalg.vector_norm(side, dim=1).amax() if len(side) else side.new_zeros(())
            for side in (self.x, self.y)
        ]
        return float(parallel.maximum(norms[0] * norms[1])) * abs(float(self.factor))

    def spread(self, gradient: Tensor) -> Tensor:
        """Return the gradient of all columns' sums from that of this rank's: [m] -> [M]."""
        return parallel.total(gradient) if self.shared else self.sides[1].gather(gradient)

    def own(self, columns: Tensor) -> Tensor:
        """Return this rank's part of a statistic of all columns: [M] -> [m]."""
        return columns if self.shared else self.sides[1].own(columns)

    def gradients_of(self, row: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the gradients of a statistic of the rows [n] and of all columns [M], zero where nobody asked."""
        rows = self.x.new_zeros(self.x.shape[0]) if row is None else row
        cols = self.x.new_zeros(self.y.shape[0]) if col is None else self.spread(col)
        return rows, cols

    def complete(self, own: Tensor) -> Tensor:
        """Return the values of all columns from this rank's: [m] -> [M]."""
        return own if self.shared else self.sides[1].gather(own)

    def hand_back(self, columns: Tensor) -> Tensor:
        """Return the gradient of this rank's own y from that of all columns: [M, ...] -> [m, ...]."""
        return columns if self.shared else self.sides[1].reduce_scatter(columns)

    def collect_into(self, need_x: bool, need_y: bool) -> None:
        """Start gradients: `collect` adds to dx [n, D] and dy [M, D]."""
        self.dx = torch.zeros_like(self.x) if need_x else None
        self.dy = torch.zeros_like(self.y) if need_y else None

    def collect(self, gradient: Tensor, rows: slice, cols: slice, times: float = 1.0) -> None:
        """Add what the gradient [h, w] of a tile in bits means for x and y; only inside the loop over `tiles`."""
        if self.dx is not None:
            self.dx[rows].addmm_(gradient, self.y[cols], alpha=times)
        if self.dy is not None:
            self.dy[cols].addmm_(gradient.T, self.scaled, alpha=times)

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of this rank's x and y, and of scale in float64: its parts may cancel."""
        dscale = None
        if self.dx is not None:
            # As dx still lacks the factor, <x, dx> is the gradient of the factor.
            parts = [(self.x[rows] * self.dx[rows]).sum(dtype=torch.float64) for rows in self.rows]
            dscale = sum(parts[1:], parts[0]) / LN2 if parts else torch.zeros_like(self.factor)
            self.dx.mul_(self.factor)
        return self.dx, None if self.dy is None else self.hand_back(self.dy), dscale


def pair_cosines(x: Tensor, y: Tensor) -> Tensor:
    """Return <x_i, y_i> of this rank's rows [n, D], without a temporary of their size."""
    dots = [(x[rows] * y[rows]).sum(1) for rows in blocks(x.shape[0], TILE["cpu"][0])]
    return dots[0] if len(dots) == 1 else torch.cat([*dots, x.new_empty(0)])


def add_pairs(
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    gradient: Tensor | None,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    cosines: Tensor,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, y and scale with what the gradient [n] of scale * <x_i, y_i> adds, in place."""
    dx, dy, dscale = gradients
    if gradient is not None:
        # rounded as the tiles' own factor is: a pair weighs as much as its negatives together, and what features
        # have in common cancels
        each = (gradient * LN2 * (scale / LN2))[:, None]
        for rows in blocks(x.shape[0], TILE["cpu"][0]):
            if dx is not None:
                dx[rows].addcmul_(each[rows], y[rows])
            if dy is not None:
                dy[rows].addcmul_(each[rows], x[rows])
        dscale = None if dscale is None else dscale + torch.dot(gradient.double(), cosines.double())
    return dx, dy, None if dscale is None else dscale.to(scale.dtype)
