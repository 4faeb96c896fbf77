"""k-means of unit vectors, by cosine: Dhillon and Modha, Machine Learning 42, 2001."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 1 << 24  # similarities at a time, 64 MiB


def fit(x: Tensor, k: int, iterations: int, seed: int = 0, seen: Callable[[float], None] | None = None) -> Tensor:
    """Return k centres [k, D] of unit vectors x [n, D], n at least k, from k of them drawn by `seed`.

    Ends after so many iterations, or when no vector changes its centre. A centre that nothing is close to moves to the
    vector that is farthest from its own. `seen` is told the mean cosine of each iteration.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    centres, before = x[order[:k].to(x.device)].clone(), None
    for _ in range(iterations):
        cosines, labels = (part[:, 0] for part in nearest(x, centres, 1))
        if seen is not None:
            seen(float(cosines.double().mean()))
        if before is not None and torch.equal(labels, before):
            break
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        empty = (torch.bincount(labels, minlength=k) == 0).nonzero()[:, 0]
        sums[empty] = x[cosines.argsort()[: len(empty)]]
        centres, before = F.normalize(sums, dim=1), labels
    return centres


def nearest(x: Tensor, centres: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and numbers [n, top] of the centres that are closest to each vector, the closest first."""
    values, numbers = x.new_empty(len(x), top), torch.empty(len(x), top, dtype=torch.int64, device=x.device)
    for rows in _parts(len(x), max(1, TILE // len(centres))):
        found = (x[rows] @ centres.T).topk(top, dim=1)
        values[rows], numbers[rows] = found.values, found.indices
    return values, numbers


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
