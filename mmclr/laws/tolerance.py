"""Bounds of rounding around a right result: 8 deviations of a random walk of rounded additions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAFETY = 8  # errors of roundings add up like a random walk; this many deviations are not met by chance


def bound(dtype: torch.dtype = torch.float32, terms: int = 1, size: float = 1.0) -> float:
    """Return 8 u sqrt(terms) size, u the unit roundoff: what `terms` rounded additions of numbers up to `size` lose."""
    return SAFETY * torch.finfo(dtype).eps / 2 * max(1, terms) ** 0.5 * size


def near(dtype: torch.dtype = torch.float64, terms: int = 512, size: float = 100.0) -> dict[str, float]:
    """Return rtol and atol of `bound`, for values and gradients up to 1 of exponents up to `size`, a softmax's scale.

    exp turns the rounding of an exponent into a relative error as large, and sums that cancel keep the absolute one.
    """
    limit = bound(dtype, terms, size)
    return {"rtol": limit, "atol": limit}


def same(mine: Tensor, other: Tensor) -> bool:
    """Say whether two tensors of one type agree up to `near`, element by element."""
    limits = near()
    close = torch.isclose(mine, other, limits["rtol"], limits["atol"])
    return mine.dtype == other.dtype and bool(close.all())


def close(mine: Tensor, other: Tensor, tolerance: float) -> bool:
    """Say whether two tensors agree, relative to the size of the whole; infinities must be equal."""
    mine, other = mine.detach().double(), other.detach().double()
    off = torch.where(mine == other, 0.0, mine - other).norm()
    size = other[other.isfinite()].norm()
    return bool(off <= tolerance * size + tolerance * 1e-2 * math.sqrt(other.numel()))
