"""Classes held apart: hinges on the nearest wrong prototype, and a score of every sample's neighbourhood."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import Equal, Mask, Pairs, groups, top
from mmclr.losses.objective import Objective
from mmclr.losses.targets import mean_of_equals

SMALL = 1e-6  # added to squared distances, so that a root has a slope at 0
TINY = 1e-7  # added to a distance by which others are divided
WORST = 1e-6  # a score below it counts as it


class SuSana(Objective, key="susana"):
    """Hold each sample nearer to its concept's prototype in the other modality than to any other, by a margin.

    Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv 2305.09062, their Proto-Triplet loss.
    d(a, b) = sqrt(|a - b|^2 + 1e-6), P_c = mean of the captions of the images of concept c, not normalised, concepts
    are equal captions: L_image = mean_i max(0, d(image_i, P_own) - min_{c != own} d(image_i, P_c) + margin),
    L = (L_image + L_text) / 2, where L_text has the roles of images and captions exchanged.
    Reduces to: a triplet loss with the hardest caption of the batch, where all captions differ; 0 for one concept.
    Differs from the paper: a modality's prototypes in place of an episode's support set, for samples of the other.
    """

    margin: float = 0.5  # by which another prototype is farther away, >= 0

    def forward(self, image: Tensor, text: Tensor, caption_id: Tensor, weights: Tensor) -> Tensor:
        return self._hold(image, text, caption_id, weights)

    def _hold(self, image: Tensor, text: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        each = [hinges(x, mean_of_equals(y, ids), ids, self.margin) for x, y in ((image, text), (text, image))]
        return parallel.mean(each[0] + each[1], weights) / 2


class SuSanaLabel(SuSana, key="susana_label"):
    """Hold each sample nearer to its class's prototype in the other modality than to any other class's, by a margin.

    Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv 2305.09062, their Proto-Triplet loss. As susana,
    where P_c is the mean of the captions of class c:
    L_image = mean_i max(0, d(image_i, P_label_i) - min_{c != label_i} d(image_i, P_c) + margin).
    Reduces to: susana, where labels are equal for equal captions alone. What has no label is a class of its own.
    Differs from the paper: a modality's prototypes in place of an episode's support set, for samples of the other.
    """

    def forward(self, image: Tensor, text: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        return self._hold(image, text, label, weights)


class ICNN(Objective, key="icnn"):
    """Raise the score of neighbourhoods: near neighbours of the own class, and many, those of other classes far away.

    Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv 2305.09062; ICNN is of arXiv 2107.06992. Of X =
    images and captions together, d_ij to the k nearest of i, delta_i the nearest of another class in the window,
    r_ij = d_ij / (delta_i + 1e-7) / max(1, max_j r_ij), e_ij = d_ij / max d over neighbours of another class:
    S = 1 - mean_i mean_{j own} r_ij,  O = mean_i mean_{j other} e_ij,  G = mean_i |{j own}| / k,
    L = -log((S + O) / 4 + G / 2). Means are over those i that have such neighbours; O = 1 where no i has another's,
    S = 0 where none has its own's; k is at most n - 2, and then G = 1.
    Reduces to: 0, where all are of one class. What has no label is a class with its own pair.
    Differs from the paper: X is of two modalities; which neighbours are chosen has no gradient, nor has it there.
    """

    k: int = 4  # neighbours that are looked at, >= 1
    window: int = 0  # neighbours among which the nearest of another class is sought; 0: k + 1

    def __post_init__(self) -> None:
        if self.k < 1 or self.window < 0:
            raise ValueError(f"k is at least 1 and window at least 0, not {self.k} and {self.window}")

    def forward(self, image: Tensor, text: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        rows = parallel.rows_of(len(label))
        numbers = rows.own(groups(rows.gather(label))[0]).repeat(2)
        k, window = reach(2 * rows.total, self.k, self.window)
        x = torch.cat([image, text])
        distances, columns = nearest(x, x, window, Pairs())
        same = parallel.gather(numbers)[columns] == numbers[:, None]
        near = neighbourhoods(distances, same, k)
        whole = near._replace(other=near.other / _largest(near.farthest))
        return -score(whole, weights.repeat(2), 2 * rows.total <= self.k + 2).clamp_min(WORST).log()


def hinges(x: Tensor, prototypes: Tensor, ids: Tensor, margin: float) -> Tensor:
    """Return max(0, d(x_i, P_i) - min_j d(x_i, P_j) + margin) over the P_j of all ranks with other ids: [b].

    x and prototypes [b, D] are this rank's rows, prototype i is that of x_i. 0 where there is no other.
    """
    wrong, _ = nearest(x, prototypes, 1, Equal(ids))
    return torch.where(wrong[:, 0] < torch.inf, (distance(x, prototypes) - wrong[:, 0] + margin).clamp_min(0), 0.0)


def nearest(x: Tensor, y: Tensor, k: int, exclude: Mask) -> tuple[Tensor, Tensor]:
    """Return the distances [n, k] of each x to its k nearest y of all ranks, and their global numbers [n, k].

    Vectors may have any length. Infinite where there are fewer. Which are chosen has no gradient.
    """
    a, b = x.detach(), y.detach()
    # |a - b|^2 is least where <a, b> - |b|^2 / 2 is greatest
    a, b = torch.cat([a, torch.ones_like(a[:, :1])], 1), torch.cat([b, -b.square().sum(1)[:, None] / 2], 1)
    found = top(a, b, k, exclude=exclude)
    every = parallel.gather(y)
    near = torch.stack([distance(x, every[columns]) for columns in found.columns.T], 1)
    return torch.where(found.values > -torch.inf, near, torch.inf), found.columns


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return sqrt(|x_i - y_i|^2 + 1e-6): [n, D], [n, D] -> [n]."""
    return ((x - y).square().sum(1) + SMALL).sqrt()


class Near(NamedTuple):
    """The values of a sample's neighbours, [n] each."""

    own: Tensor  # mean over neighbours of its class of r_ij, 0 without such
    has_own: Tensor  # bool
    other: Tensor  # mean distance of neighbours of another class, to be divided by the farthest of all; 0 without such
    has_other: Tensor  # bool
    share: Tensor  # of its class among its neighbours
    farthest: Tensor  # distance of its farthest neighbour of another class, 0 without such


def reach(n: int, k: int, window: int) -> tuple[int, int]:
    """Return how many neighbours are looked at, and in which window, where there are n samples."""
    k = max(1, min(k, n - 2))
    return k, max(k, min(window or k + 1, n - 1))


def neighbourhoods(distances: Tensor, same: Tensor, k: int) -> Near:
    """Return the parts of the ICNN score: distances [n, w] from the nearest on, same [n, w] whether of the own class.

    Neighbours at an infinite distance are none.
    """
    there = distances < torch.inf
    finite = torch.where(there, distances, 0.0)
    strangers = torch.where(same | ~there, torch.inf, distances)
    delta = strangers.amin(1, keepdim=True)
    ratios = (finite / (delta + TINY))[:, :k]  # 0 where nobody of another class is in the window
    ratios = ratios / ratios.amax(1, keepdim=True).clamp_min(1)
    own, other = (same & there)[:, :k], (~same & there)[:, :k]
    apart = torch.where(other, finite[:, :k], 0.0)
    return Near(
        own=torch.where(own, ratios, 0.0).sum(1) / own.sum(1).clamp_min(1),
        has_own=own.any(1),
        other=apart.sum(1) / other.sum(1).clamp_min(1),
        has_other=other.any(1),
        share=own.sum(1).to(distances.dtype) / k,
        farthest=apart.amax(1),
    )


def score(near: Near, weights: Tensor, few: bool) -> Tensor:
    """Return the ICNN score in 0 to 1, [], over the samples of all ranks, by weights [n]; `few`: their share is 1.

    `near.other` is in shares of the farthest of all.
    """
    own, other = near.has_own * weights, near.has_other * weights
    same = torch.where(parallel.total(own.sum()) > 0, 1 - parallel.mean(near.own, own), 0.0)
    apart = torch.where(parallel.total(other.sum()) > 0, parallel.mean(near.other, other), 1.0)
    share = parallel.mean(near.share, weights)
    return (same + apart) / 4 + (torch.ones_like(share) if few else share) / 2


def _largest(values: Tensor) -> Tensor:
    """Return the largest of the values [n] of all ranks, [], with a gradient; 1 where they are all 0."""
    largest = parallel.gather(values).amax()
    return torch.where(largest > 0, largest, 1.0)
