"""Collectives with exact adjoints: the only module that knows ranks.

Every rank computes the same global loss L, so what autograd differentiates is the sum of L over the ranks, and
each collective below has the true adjoint of the linear map that it is. The gradient that rank r then holds for
a replicated parameter is W times its share of dL/dp, and the mean over ranks (what DDP, FSDP and DeepSpeed
take) is exactly dL/dp. In one process every function here is the identity or a plain sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_equally: list[bool] = []  # what `equally_many` says, the last one counts
_patience: list[timedelta] = []  # the last one counts; none: torch's own

# torch 2.13 renamed the two; the old names warn.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter_sum = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Return this process's number, 0 to world() - 1."""
    return dist.get_rank() if _active() else 0


class Rows(NamedTuple):
    """Number of rows of a global tensor on each rank, in rank order."""

    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of rows of all ranks together."""
        return sum(self.counts)

    @property
    def first(self) -> int:
        """Global number of this rank's first row."""
        return sum(self.counts[: rank()])

    @property
    def even(self) -> bool:
        """Whether all ranks hold equally many."""
        return len(set(self.counts)) == 1

    def own(self, x: Tensor) -> Tensor:
        """Return this rank's rows of a global tensor: [B, ...] -> [b, ...]."""
        return x.narrow(0, self.first, self.counts[rank()])

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate the rows of all ranks in rank order: [b, ...] -> [B, ...]. Differentiable."""
        return _Gather.apply(x, self) if len(self.counts) > 1 else x

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """Sum a global tensor over ranks and keep this rank's rows: [B, ...] -> [b, ...]. Differentiable."""
        return _ReduceScatter.apply(x, self) if len(self.counts) > 1 else x


def rows_of(count: int) -> Rows:
    """Return how many rows each rank holds of a tensor of which this one has `count`. All ranks must ask.

    The others are asked, unless `equally_many` says that they need not be.
    """
    if world() == 1 or (_equally and _equally[-1]):
        return Rows((count,) * world())
    own = torch.tensor([count])
    every = own.new_empty(world())
    _all_gather(every, own, group=_control())
    return Rows(tuple(every.tolist()))


@contextmanager
def equally_many(yes: bool) -> Iterator[None]:
    """Say for a while whether ranks hold equally many rows of whatever is put together, so that none need ask."""
    _equally.append(yes)
    try:
        yield
    finally:
        _equally.pop()


def count(x: Tensor) -> int:
    """Return the number of rows of all ranks together: [b, ...] -> B. All ranks must ask."""
    return rows_of(x.shape[0]).total


def own_rows(x: Tensor) -> Tensor:
    """Return this rank's rows of a global tensor that all ranks share equally: [B, ...] -> [b, ...]."""
    rows = x.shape[0] // world()
    return x.narrow(0, rank() * rows, rows)


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order: [b, ...] -> [B, ...]. Differentiable."""
    return rows_of(x.shape[0]).gather(x)


def total(x: Tensor) -> Tensor:
    """Sum a tensor over ranks, elementwise. Differentiable."""
    return _Total.apply(x) if world() > 1 else x


def mean(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the samples of all ranks: [b, ...] -> [...]; rows count by `weights` [b] when given.

    A batch whose weights are all zero, or that has no rows, has mean 0 (and gradient 0), not NaN.
    """
    if weights is None:
        return total(x.sum(0)) / max(1, count(x))
    share = shares(weights.to(x.dtype))
    return total((x * (share if x.dim() == 1 else share.view(-1, *[1] * (x.dim() - 1)))).sum(0))


def shares(weights: Tensor) -> Tensor:
    """Return what each of this rank's samples has of the weights of all ranks, [b]; zeros where none has any."""
    return weights / total(weights.sum()).clamp_min(torch.finfo(weights.dtype).tiny)


def maximum(x: Tensor) -> Tensor:
    """Elementwise maximum over ranks; no gradient."""
    if world() == 1:
        return x.detach()
    out = x.detach().clone()
    dist.all_reduce(out, op=dist.ReduceOp.MAX, group=_group(x))
    return out


def largest(x: Tensor) -> Tensor:
    """Largest element of the tensors of all ranks, [], -inf where they are empty; no gradient."""
    return maximum(x.max() if x.numel() else x.new_full((), -torch.inf))


def agree(flag: bool) -> bool:
    """Whether any rank says so. All ranks must ask at the same point of the program."""
    if world() == 1:
        return flag
    asked = torch.tensor([flag], dtype=torch.uint8)
    dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=_control())
    return bool(asked.item())


def say(text: str) -> list[str]:
    """Return what each rank says, in rank order. All ranks must speak at the same point of the program."""
    if world() == 1:
        return [text]
    said: list[Any] = [None] * world()
    dist.all_gather_object(said, text, group=_control())
    return said


def wait_at_most(time: timedelta) -> None:
    """Set how long host messages wait for the other ranks. To be called before the first of them."""
    _patience.append(time)


@cache
def _control() -> Any:
    """Return a group for host messages: where the default one is NCCL, asking it would wait for the device."""
    if dist.get_backend() == "gloo":
        return None
    return dist.new_group(backend="gloo", timeout=_patience[-1] if _patience else None)


def _group(x: Tensor) -> Any:
    """Return the group that can move `x`: NCCL moves nothing that is not on a GPU."""
    return None if x.is_cuda else _control()


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gather(x: Tensor) -> Tensor:
    out = x.new_empty((world() * x.shape[0], *x.shape[1:]))
    _all_gather(out, x.contiguous(), group=_group(x))
    return out


def _reduce_scatter(x: Tensor) -> Tensor:
    out = x.new_empty((x.shape[0] // world(), *x.shape[1:]))
    _scatter_sum(out, x.contiguous(), group=_group(x))
    return out


def _put_together(x: Tensor, rows: Rows) -> Tensor:
    if rows.even:
        return _gather(x)
    most = max(rows.counts)
    padded = torch.cat([x, x.new_zeros((most - x.shape[0], *x.shape[1:]))])
    parts = _gather(padded).split(most)
    return torch.cat([part[:own] for part, own in zip(parts, rows.counts)])


def _summed_part(x: Tensor, rows: Rows) -> Tensor:
    if rows.even:
        return _reduce_scatter(x)
    padded = x.new_zeros((world(), max(rows.counts), *x.shape[1:]))
    for place, part in zip(padded, x.split(rows.counts)):
        place[: len(part)] = part
    return _reduce_scatter(padded.flatten(0, 1))[: rows.counts[rank()]]


def _total(x: Tensor) -> Tensor:
    out = x.contiguous().clone()
    dist.all_reduce(out, group=_group(x))
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return _put_together(x, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _summed_part(grad, ctx.rows), None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return _summed_part(x, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _put_together(grad, ctx.rows), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _total(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _total(grad)
