"""Contrast clusters in place of samples: what travels between processes is one sum per cluster."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Pairs, dual_lse, groups
from mmclr.losses.algebra.tiles import pair_cosines
from mmclr.losses.blank import those_alone
from mmclr.losses.clusters.clustering import Clustering
from mmclr.losses.objective import Facts, Objective

SMALL = 1e-6  # a sum of features that is shorter counts as so long


class PamC(Objective, key="pamc"):
    """Hold pairs together, and apart from clusters of samples: a negative is the sum of a cluster's features.

    Kulatilleke et al., Efficient block contrastive learning via parameter-free meta-node approximation, 2022, arXiv
    2209.14067. With clusters R_ik of the samples (k-means of image + text), c_image,k = sum_i R_ik image_i, c_text
    alike, n_k = sum_i R_ik, and z_kl = scale * cos(c_image,k, c_text,l) + log n_l:
    L_image = -scale * mean_i <image_i, text_i> + sum_k (n_k / B) log sum_l exp z_kl, L = (L_image + L_text) / 2, where
    L_text has the roles exchanged.
    Reduces to: clip without masked duplicates, where every sample is a cluster; so it is until there are clusters.
    Differs from the paper: image and caption in place of the edges of a graph; log n_l and the weights n_k, without
    which it is another loss than InfoNCE (by_mass false leaves them out); clusters are of Lloyd's rounds, without the
    paper's KL term that sharpens them. Cosines of sums are no sums of cosines: wide clusters hide hard negatives.
    """

    clusters: int = 256  # K; at most one for every 4 samples
    refresh: int = 2000  # steps between two rounds of clustering; early in the training they come sooner
    soft: bool = False  # a sample belongs to all clusters, by Student's t of its distances, in place of the nearest
    drop_diag: bool = False  # a cluster's own pair is no negative
    by_mass: bool = True  # a cluster counts by the number of its samples

    def __post_init__(self) -> None:
        if self.drop_diag and self.clusters == 1:
            raise ValueError("with drop_diag a single cluster has no negatives: take more clusters, or drop_diag=false")

    def setup(self, facts: Facts) -> None:
        self.clustering = Clustering([self.clusters], facts, self.refresh)

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        both = F.normalize(image.detach() + text.detach(), dim=1)
        ready = self.clustering.ready
        self.clustering.keep(index, both)
        if not ready:
            lse = dual_lse(image, text, scale, exclude=Pairs() if self.drop_diag else None)
            return parallel.mean(_finite(lse.row + lse.col) / 2 - lse.pair, weights)
        clusters = self.clustering[0]
        if self.soft:
            there = (clusters.counts > 0).nonzero()[:, 0]
            assigned = student(both, clusters.means[there].to(both))
        else:
            assigned = clusters.nearest(both)
        return contrast(
            image,
            text,
            assigned,
            scale,
            weights,
            count=len(clusters.means),
            by_mass=self.by_mass,
            drop_diag=self.drop_diag,
        )

    def after_step(self) -> None:
        self.clustering.update()


class PamCLabel(Objective, key="pamc_label"):
    """Hold pairs together, and apart from classes: a negative is the sum of the features of a class.

    Kulatilleke et al., Efficient block contrastive learning via parameter-free meta-node approximation, 2022, arXiv
    2209.14067. As pamc, clusters are the samples of the batch with one label:
    L = 1/2 (L_image + L_text), L_image = -scale * mean_i <image_i, text_i> + sum_k (n_k / B) log sum_l exp z_kl.
    Reduces to: clip without masked duplicates, where all labels differ or none is known (-1).
    Differs from the paper: as pamc, with classes that are given.
    """

    drop_diag: bool = False  # a class's own pair is no negative
    by_mass: bool = True  # a class counts by the number of its samples

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        rows = parallel.rows_of(len(label))
        numbers, count = groups(rows.gather(label))
        return contrast(
            image, text, rows.own(numbers), scale, weights, count=count, by_mass=self.by_mass, drop_diag=self.drop_diag
        )


def contrast(
    image: Tensor,
    text: Tensor,
    assigned: Tensor,
    scale: Tensor,
    weights: Tensor,
    *,
    count: int = 0,
    by_mass: bool = True,
    drop_diag: bool = False,
) -> Tensor:
    """Return L of pairs [b, D] and what they are assigned to: [], the same on every rank.

    `assigned` is the cluster of each, int64 [b] below `count`, or its shares in all clusters [b, K], constants. Ranks
    send each other sums per cluster, and clusters are shared out among them: no rank has all cosines.
    """
    sides = [image, text, torch.stack([torch.ones_like(weights), weights], 1).to(image)]
    sums = torch.cat([_sums(x, assigned, count) for x in sides], 1)
    each, more = divmod(len(sums), parallel.world())
    rows = parallel.Rows(tuple(each + (rank < more) for rank in range(parallel.world())))
    own = rows.reduce_scatter(sums)
    width = image.shape[1]
    with those_alone(own[:, -2] > 0, *own.split([width, width, 1, 1], 1)) as (x, y, mass, weight):
        one, log = torch.ones_like(mass), mass.log() if by_mass else torch.zeros_like(mass)
        x = torch.cat([scale * F.normalize(x, dim=1, eps=SMALL), log, one], 1)
        y = torch.cat([F.normalize(y, dim=1, eps=SMALL), one, log], 1)
        lse = dual_lse(x, y, exclude=Pairs() if drop_diag else None)
        negative = _finite(lse.row + lse.col - 2 * log[:, 0]) / 2
        apart = parallel.mean(negative, weight[:, 0]) if by_mass else parallel.mean(negative)
    return apart - parallel.mean(scale * pair_cosines(image, text), weights)


def student(x: Tensor, means: Tensor) -> Tensor:
    """Return the share of each cluster in each sample, by Student's t of their distance: [b, D], [K, D] -> [b, K]."""
    squared = x.square().sum(1, keepdim=True) + means.square().sum(1) - 2 * x @ means.T
    return F.normalize(1 / (1 + squared.clamp_min(0)), p=1, dim=1)


def _sums(x: Tensor, assigned: Tensor, count: int) -> Tensor:
    """Return the sum of this rank's rows in each cluster, [K, D]."""
    if assigned.is_floating_point():
        return assigned.T @ x
    return x.new_zeros(count, x.shape[1]).index_add(0, assigned, x)


def _finite(lse: Tensor) -> Tensor:
    """Return 0 where there was nothing to sum."""
    return torch.where(lse == -torch.inf, 0.0, lse)
