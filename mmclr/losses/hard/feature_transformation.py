"""Positives that are farther apart than they are, and negatives between two of the batch, made of features."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.losses.algebra import Either, Equal, dual_lse
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class FeatureTransformation(Objective, key="feature_transformation"):
    """Draw the two of a pair apart beyond where they are, and mix negatives with each other, before they are compared.

    Zhu et al., Improving Contrastive Learning by Visualizing Feature Transformation, ICCV 2021, arXiv 2108.02982.
    With lam = 1 + Beta(a_pos, a_pos), mu = Beta(a_neg, a_neg), a permutation pi of the batch (a random circle):
    u'_i = lam image_i + (1-lam) text_i,  v'_i = lam text_i + (1-lam) image_i,  v^_j = mu text_j + (1-mu) text_pi(j),
    L = mean_i softplus(log sum_j exp(scale * <image_i, v^_j>) - scale * <u'_i, v'_i>), halved with the same of captions
    and mixed images; j is neither i nor a mix with it or its equals. Mode official: <u'_i, v^_j> in the sum.
    Reduces to: clip before `begin`; where a pair has one lam, <u'_i, v'_i> = s - 2 lam (lam-1) (1-s), s the pair's own.
    Differs from the paper: the batch in place of a queue, on both sides, with gradients everywhere; lam and mu are
    drawn per sample (and dimension, as in their code); negatives are told from the anchor itself by default.
    """

    a_pos: float = 2.0  # of lam's distribution on 1 to 2, above 0.5; the larger, the nearer to 1.5
    a_neg: float = 1.6  # of mu's distribution on 0 to 1, above 0.5; the larger, the more even the mixes
    per_dimension: bool = True  # a draw for each dimension; false: one for each sample
    mode: Literal["pos", "official"] = "pos"  # negatives are compared with the anchor, or with what it was moved to
    begin: float = 0.1  # share of the training before it, 0 to 1
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        for name in ("a_pos", "a_neg"):
            if getattr(self, name) <= 0.5:
                raise ValueError(f"{name} is above 0.5, not {getattr(self, name)}")

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        index: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
        progress: Tensor,
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        if progress < self.begin:
            row, col, pair, *_ = dual_lse(image, text, scale, exclude=same)
            return -parallel.mean(F.logsigmoid(pair - row) + F.logsigmoid(pair - col), weights) / 2
        seed = sample_random.seed(index)
        width = image.shape[1] if self.per_dimension else 1
        pi = sample_random.partners(index, seed)
        ids = (image_id, caption_id) if self.duplicates == "mask" else ()
        exclude = Either(same, *mixed_with(pi, *ids))
        lam, *mu = (
            symmetric_beta(sample_random.uniform(index, seed + number, 2 * width), a).to(image.dtype)
            for number, a in ((1, self.a_pos), (2, self.a_neg), (3, self.a_neg))
        )
        u, v = extrapolate(image, text, 1 + lam)
        positive = scale * (u * v).sum(1)
        anchors = (u, v) if self.mode == "official" else (image, text)
        loss = torch.zeros_like(positive)
        for anchor, y, share in zip(anchors, (text, image), mu):
            mixed = interpolate(y, share, pi)
            loss = loss - F.logsigmoid(positive - dual_lse(anchor, mixed, scale, exclude=exclude).row) / 2
        return parallel.mean(loss, weights)


def extrapolate(u: Tensor, v: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Return lam u + (1-lam) v and lam v + (1-lam) u: [b, D] each, lam [b, D] or [b, 1]."""
    return lam * u + (1 - lam) * v, lam * v + (1 - lam) * u


def interpolate(y: Tensor, mu: Tensor, pi: Tensor) -> Tensor:
    """Return mu y_j + (1-mu) y_pi(j): y [b, D] of this rank, mu [b, D] or [b, 1], pi [b] global rows."""
    return mu * y + (1 - mu) * parallel.gather(y)[pi]


def mixed_with(pi: Tensor, *ids: Tensor) -> list[Equal]:
    """Return the pairs (i, j) where the partner pi(j) of column j is i, or has an id of i's."""
    rows = parallel.rows_of(len(pi))
    numbers = rows.own(torch.arange(rows.total, device=pi.device))
    return [Equal(numbers, pi), *(Equal(of, rows.gather(of)[pi]) for of in ids)]


def symmetric_beta(uniforms: Tensor, a: float) -> Tensor:
    """Return draws of Beta(a, a), a above 1/2, from twice as many uniform numbers: [n, 2 k] -> [n, k].

    (1 + sqrt(1 - U^(2 / (2a-1))) cos(2 pi V)) / 2, Ulrich, Applied Statistics 33, 1984: exact, and none is rejected.
    """
    u, v = uniforms.chunk(2, 1)
    return (1 + (1 - u ** (2 / (2 * a - 1))).sqrt() * (2 * math.pi * v).cos()) / 2
