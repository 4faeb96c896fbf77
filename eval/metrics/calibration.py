"""Features of a labelled set without what is out of place in its class, filled up where classes are rare."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from mmclr.config import config
from mmclr.statistics.lof import lof


@config
class Calibration:
    """The cleaning of classes, and the borrowing of rare ones."""

    k: Annotated[int, Ge(1)] = 20  # neighbours of the local outlier factor, in the class
    cut: Annotated[float, Gt(0)] = 1.5  # factor above which an image is left out
    q: Annotated[int, Ge(1)] = 3  # common classes that a rare one borrows from
    a: Annotated[float, Ge(0), Le(1)] = 0.5  # share that is borrowed
    eps: Annotated[float, Ge(0)] = 1e-3  # added to the diagonal of every covariance


class Balanced(NamedTuple):
    """Features with as many rows of each class that occurs."""

    x: Tensor  # float64 [m, D], unit-norm: what was kept, then what was drawn
    y: Tensor  # int64 [m]
    kept: Tensor  # bool [n], which rows of the set are in it
    drawn: int  # rows that are no image's


def balance(x: Tensor, y: Tensor, how: Calibration, seed: int = 0) -> Balanced:
    """Return unit-norm features x [n, D] of classes y [n], each filled up to the largest class by draws.

    A class is rare where it keeps fewer images than the mean class; it draws from its calibrated Gaussian, a common
    one from its own.
    """
    x = x.double()
    kept = torch.zeros(len(x), dtype=torch.bool)
    for c in y.unique():
        rows = (y == c).nonzero()[:, 0]
        kept[rows] = lof(x[rows], how.k) <= how.cut
    names, counts = y[kept].unique(return_counts=True)
    members = [x[kept & (y == c)] for c in names]
    common = (counts >= counts.double().mean()).nonzero()[:, 0].tolist()
    generator, most, more = torch.Generator().manual_seed(seed), int(counts.max()), []
    means = torch.stack([rows.mean(0) for rows in members])
    for c, rows in enumerate(members):
        mean, covariance = means[c], shrunk(rows)
        if c not in common:
            near = borrowed(mean, means[common], counts[common], how.q)
            heads = torch.stack([shrunk(members[common[i]]) for i in near.classes])
            mean, covariance = calibrate(mean, covariance, means[common][near.classes], heads, near.weights, how.a)
        draws = torch.randn(most - len(rows), x.shape[1], generator=generator, dtype=torch.float64)
        more.append(mean + draws @ root(covariance + how.eps * torch.eye(len(mean), dtype=torch.float64)).T)
    drawn = F.normalize(torch.cat(more), dim=1)
    labels = names.repeat_interleave(most - counts)
    return Balanced(torch.cat([x[kept], drawn]), torch.cat([y[kept], labels]), kept, len(drawn))


class Near(NamedTuple):
    """The common classes next to a rare one."""

    classes: Tensor  # int64 [q], their numbers
    weights: Tensor  # float64 [q], adding up to 1


def borrowed(mean: Tensor, heads: Tensor, counts: Tensor, q: int) -> Near:
    """Return the q nearest of the common classes, heads [H, D], weighing n_c / |mean_c - mean|^2 each.

    One at the very same place takes all the weight.
    """
    squared = (heads - mean).square().sum(1)
    near = squared.argsort(stable=True)[:q]
    weights = counts[near].double() / squared[near].clamp_min(torch.finfo(torch.float64).tiny)
    weights = torch.where(weights.isinf(), 1e300, weights)
    return Near(near, weights / weights.sum())


def calibrate(
    mean: Tensor, covariance: Tensor, heads: Tensor, covariances: Tensor, weights: Tensor, a: float
) -> tuple[Tensor, Tensor]:
    """Return (1-a) mean + a sum_c w_c mean_c, [D], and the same of covariances, [D, D]; heads [q, D]."""
    borrowed = torch.einsum("c,cde->de", weights, covariances)
    return (1 - a) * mean + a * weights @ heads, (1 - a) * covariance + a * borrowed


def shrunk(x: Tensor) -> Tensor:
    """Return the covariance [D, D] of rows x [n, D], divided by n - 1 and shrunk to a multiple of the identity.

    By the share of Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004; 0 of a single row.
    """
    n, d = x.shape
    centred = x - x.mean(0)
    if n < 2:
        return x.new_zeros(d, d)
    plain = centred.T @ centred / n
    variance = plain.trace() / d
    spread = (plain.square().sum() / d - variance**2).clamp_min(0)  # of the eigenvalues
    noise = (centred.square().sum(1).square().mean() - plain.square().sum()) / (d * n)
    share = torch.where(spread > 0, (noise / spread).clamp(0, 1), 1.0)
    return ((1 - share) * plain + share * variance * torch.eye(d, dtype=x.dtype)) * n / (n - 1)


def root(covariance: Tensor) -> Tensor:
    """Return a matrix R with R R^T = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()
