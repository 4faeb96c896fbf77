"""The local outlier factor: the distance of each row of numbers from its neighbours, beside theirs."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024  # rows whose distances to all others are there at once
TINY = 1e-12  # added to mean distances: equal rows lie infinitely close


def lof(x: Tensor, k: int = 20) -> Tensor:
    """Return the local outlier factor of each row, float64 [n]: about 1 inside, above it outside. x [n, D].

    Breunig et al., LOF: Identifying Density-Based Local Outliers, SIGMOD 2000, with exactly k neighbours, of equal
    distances any of them. Equal rows count once, so copies make no dense spot. k is at most one less than the number
    of different rows; 1 for all where there is no other.
    """
    if k < 1:
        raise ValueError(f"k is at least 1, not {k}")
    rows, back = torch.unique(x.double(), dim=0, return_inverse=True)
    k = min(k, len(rows) - 1)
    if k < 1:
        return torch.ones(len(x), dtype=torch.float64, device=x.device)
    distances, index = nearest(rows, k)
    reach = torch.maximum(distances[:, -1][index], distances)
    density = 1 / (reach.mean(1) + TINY)
    return (density[index].mean(1) / density)[back]


def nearest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the distances [n, k] of each row x [n, D] to its k nearest others, from the nearest on, and their numbers.

    k is at most n - 1. Distances are of differences, not of products, which cancel where rows are close.
    """
    found = []
    for start in range(0, len(x), CHUNK):
        distances = torch.cdist(x[start : start + CHUNK], x, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(start).fill_(torch.inf)
        found.append(distances.topk(k, largest=False))
    values, index = zip(*found)
    return torch.cat(values), torch.cat(index)
