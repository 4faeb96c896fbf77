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


def log_mean_kernel(x: Tensor, y: Tensor, t: float, *, unit: bool = True, itself: bool = False) -> Tensor:
    """Return log mean_{j != k} exp(-t |x_j - y_k|^2) over all ranks; 0 for no pairs.

    x [b, D] and y [b, D] are unit vectors, or with `unit` false of any length, and then it is computed in float64. With
    `itself` the pairs j = k count, too, and y may have another number of rows than x.
    """
    rows = parallel.count(x)
    pairs = rows * parallel.count(y) if itself else rows * (rows - 1)
    if not pairs:
        return (x.sum() + y.sum()) * 0 if itself else (x * y).sum() * 0
    if not unit:
        return (logsumexp(log_kernels(x, y, t, itself=itself)) - math.log(pairs)).to(x.dtype)
    # |x - y|^2 = 2 - 2 <x, y>: no root of a distance that may be 0
    return logsumexp(dual_lse(x, y, 2 * t, exclude=None if itself else Pairs()).row) - 2 * t - math.log(pairs)


def log_kernels(x: Tensor, y: Tensor, t: float, *, itself: bool = True) -> Tensor:
    """Return log sum_j exp(-t |x_i - y_j|^2) over the rows j of all ranks: [n], float64; -inf for an empty sum.

    x [n, D] and y [m, D] are vectors of any length; without `itself` a row leaves out the column of its own number.
    """
    x, y = x.double(), y.double()
    middle = parallel.mean(y.detach())  # of large numbers that are nearly equal, squares would leave nothing
    x, y = x - middle, y - middle
    one, other = torch.ones_like(x[:, :1]), torch.ones_like(y[:, :1])
    left = torch.cat([2 * t * x, -t * x.square().sum(1, keepdim=True), one], 1)
    right = torch.cat([y, other, -t * y.square().sum(1, keepdim=True)], 1)
    return dual_lse(left, right, exclude=None if itself else Pairs()).row


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
