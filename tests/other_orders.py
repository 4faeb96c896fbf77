"""Arithmetic as another CPU may do it: sums in other orders, functions of another library. A plugin of pytest, too.

`pytest -p tests.other_orders tests/losses` runs tests under it: what fails demands more than a right result has, or
that one sum in two shapes has equal bits. The same operation on the same shapes has equal bits here as on any CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FUNCTIONS = {"exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "tanh": np.tanh, "log1p": np.log1p}


class OtherOrders(TorchDispatchMode):
    """Cut each sum over features, rows or columns in two at random places, by its shapes, and add up the parts."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = op.overloadpacket.__name__
        other = OTHER.get(name.rstrip("_"))
        if other is None or not all(usual(v) for v in args if isinstance(v, Tensor)):
            return op(*args, **kwargs)
        out = kwargs.pop("out", args[0] if name.endswith("_") else None)
        found = other(getattr(aten, name.rstrip("_")), *args, **kwargs)
        return found if out is None else out.copy_(found)


def usual(tensor: Tensor) -> bool:
    """Say whether a tensor is of the types and places that other CPUs round otherwise."""
    return tensor.dtype in (torch.float32, torch.float64) and tensor.device.type == "cpu" and tensor.numel() > 0


def halves(length: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Return the numbers below `length` in two parts, each in a random order that the shape alone decides."""
    order = torch.from_numpy(np.random.default_rng([length, *shape]).permutation(length))
    return order[: length // 2], order[length // 2 :]


def product(op: Callable, a: Tensor, b: Tensor) -> Tensor:
    """Compute mm, bmm, mv or dot in two parts of the inner dimension."""
    inner, at = a.shape[-1], max(0, b.ndim - 2)
    one, two = halves(inner, *a.shape, *b.shape)
    parts = [op(a.index_select(-1, half), b.index_select(at, half)) for half in (one, two)]
    return parts[0] + parts[1]


def plus_product(op: Callable, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Compute addmm and its like by adding last."""
    found = product({"addmm": aten.mm, "baddbmm": aten.bmm, "addmv": aten.mv}[op.__name__], a, b)
    found = found if alpha == 1 else alpha * found
    return found if beta == 0 else found + (c if beta == 1 else beta * c)


def total(op: Callable, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    """Compute a sum in two parts of one of its dimensions."""
    dims = list(range(x.ndim)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    if not dims:
        return op(x, dim, *args, **kwargs)
    at = max(dims, key=lambda d: x.shape[d])
    one, two = halves(x.shape[at], *x.shape)
    parts = [aten.sum(x.index_select(at, half), dims, *args, **kwargs) for half in (one, two)]
    return parts[0] + parts[1]


def mean(op: Callable, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    found = total(aten.sum, x, dim, *args, **kwargs)
    return found / (x.numel() // max(1, found.numel()))


def logsumexp(op: Callable, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    peak = x.amax(dim, keepdim=True)
    base = torch.where(peak.isfinite(), peak, 0.0)
    found = total(aten.sum, function(aten.exp, x - base), dim, True).log() + base
    return found if keepdim else found.squeeze(tuple(dim) if isinstance(dim, (list, tuple)) else dim)


def softmax(op: Callable, x: Tensor, dim: int, half: bool) -> Tensor:
    parts = function(aten.exp, x - x.amax(dim, keepdim=True))
    return parts / total(aten.sum, parts, dim, True)


def log_softmax(op: Callable, x: Tensor, dim: int, half: bool) -> Tensor:
    moved = x - x.amax(dim, keepdim=True)
    return moved - total(aten.sum, function(aten.exp, moved), dim, True).log()


def norm(op: Callable, x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    if order != 2:
        return op(x, order, dim, keepdim, **kwargs)
    return total(aten.sum, x * x, dim, keepdim).sqrt()


def function(op: Callable, x: Tensor) -> Tensor:
    """Compute a function by NumPy: of float64, and rounded then, or with NumPy's own roundings."""
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.asarray(FUNCTIONS[op.__name__](x.detach().double().numpy()))).to(x.dtype)


OTHER: dict[str, Callable] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot"), product), **dict.fromkeys(("addmm", "baddbmm", "addmv"), plus_product),
    **dict.fromkeys(FUNCTIONS, function), "sum": total, "mean": mean, "logsumexp": logsumexp, "_softmax": softmax,
    "_log_softmax": log_softmax, "linalg_vector_norm": norm,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _other_orders() -> Iterator[None]:
    with OtherOrders():
        yield
