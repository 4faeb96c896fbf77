"""Moments of a batch over all ranks: how the samples lie, as numbers that do not depend on how they are shared out."""

import math

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import Pairs, dual_lse, groups


def logsumexp(x: Tensor) -> Tensor:
    """Return the log-sum-exp of the values [b] of all ranks, [], the same on every rank; -inf if all are."""
    top = parallel.largest(x)
    top = torch.where(top == -torch.inf, 0.0, top)
    return parallel.total((x - top).exp().sum()).log() + top


def log_mean_kernel(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Return log mean_{j != k} exp(-t |x_j - y_k|^2) of unit vectors [b, D] over all ranks; 0 for fewer than 2."""
    samples = parallel.count(x)
    if samples < 2:
        return (x * y).sum() * 0
    # |x - y|^2 = 2 - 2 <x, y>: no root of a distance that may be 0
    return logsumexp(dual_lse(x, y, 2 * t, exclude=Pairs()).row) - 2 * t - math.log(samples * (samples - 1))


def effective_rank(x: Tensor) -> Tensor:
    """Return exp of the entropy of the shares of variance along the principal axes of x [b, D], 1 to D.

    Roy and Vetterli, EUSIPCO 2007, of the covariance over all ranks.
    """
    centred = (x - parallel.mean(x)).double()
    values = torch.linalg.eigvalsh(parallel.total(centred.T @ centred)).clamp(min=0)
    return torch.special.entr(values / values.sum().clamp(min=1e-300)).sum().exp()


def tolerance(x: Tensor, ids: Tensor) -> Tensor:
    """Return the mean similarity of two different samples with equal ids [b] over all ranks; NaN if there are none.

    Wang and Liu, CVPR 2021, arXiv 2012.09740: sum over groups of |sum of x|^2 less the samples with themselves.
    """
    rows = parallel.rows_of(len(ids))
    numbers, count = groups(rows.gather(ids))
    members = torch.bincount(numbers, minlength=count)
    sums = x.new_zeros(count, x.shape[1], dtype=torch.float64)
    sums = parallel.total(sums.index_add(0, rows.own(numbers), x.double()))
    own = parallel.total(x.double().square().sum())
    return (sums.square().sum() - own) / (members * (members - 1)).sum()
