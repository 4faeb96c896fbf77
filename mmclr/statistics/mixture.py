"""Two Gaussians on a line: which of two groups a number belongs to, where nobody says."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Mixture(NamedTuple):
    """Two Gaussians, the lower mean first; float64 [2] each."""

    mean: Tensor
    variance: Tensor
    share: Tensor  # of all values, adding up to 1

    def upper(self, values: Tensor) -> Tensor:
        """Return the probability that each value [n] is of the Gaussian with the higher mean, float64 [n]."""
        return _logs(values.double(), self).softmax(1)[:, 1]


def fit(values: Tensor, *, regularisation: float = 5e-4, steps: int = 1000, tolerance: float = 1e-10) -> Mixture:
    """Return the mixture of two Gaussians that expectation and maximisation find for the values [n], n at least 2.

    Means start at the smallest and the largest value, so the same values give the same mixture in any order.
    `regularisation` is added to each variance; it ends once the mean log-likelihood grows by less than `tolerance`.
    """
    x = values.double()
    if len(x) < 2 or not bool(x.isfinite().all()):
        raise ValueError("a mixture of two wants two values or more, all of them finite")
    variance = x.var(correction=0).expand(2) + regularisation
    found = Mixture(torch.stack([x.min(), x.max()]), variance, torch.full_like(variance, 0.5))
    likelihood = -math.inf
    for _ in range(steps):
        logs = _logs(x, found)
        before, likelihood = likelihood, float(logs.logsumexp(1).mean())
        if likelihood - before < tolerance:
            break
        parts = logs.softmax(1)
        total = parts.sum(0).clamp_min(torch.finfo(x.dtype).tiny)
        mean = (parts * x[:, None]).sum(0) / total
        variance = (parts * (x[:, None] - mean).square()).sum(0) / total + regularisation
        found = Mixture(mean, variance, total / len(x))
    order = found.mean.argsort()
    return Mixture(*(part[order] for part in found))


def _logs(x: Tensor, mixture: Mixture) -> Tensor:
    """Return the logarithm of each Gaussian's density times its share: [n] -> [n, 2]."""
    off = (x[:, None] - mixture.mean).square() / mixture.variance
    return mixture.share.log() - (off + mixture.variance.log() + math.log(2 * math.pi)) / 2
