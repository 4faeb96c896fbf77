"""Two parts of an embedding: what all domains have in common, and what is salient in one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.heads.split import Split, SplitHead
from mmclr.losses.hints import MANY, hint
from mmclr.losses.moments import log_kernels, log_mean_kernel
from mmclr.losses.objective import Facts, Objective

Parts = tuple[Tensor, Tensor]  # c and s of a side


class SepCLR(Objective, key="sepclr"):
    """Separate what is salient in a target domain from what it has in common with the others, the background.

    Louiset et al., Separating common from salient patterns with Contrastive Representation Learning, ICLR 2024, arXiv
    2402.11928. Parts c (unit) and s of images (1) and captions (2), y_i = 1 in the target domain, s' = y s; A(a, b) =
    mean |a_i - b_i|^2 / (2 tau), U(a) = log mean_{i != j} k_a(i, j), k_a = exp(-|a_i - a_j|^2 / (2 tau)):
    L = A(c1, c2) + U(c1) + U(c2) + b_t [ A(s1, s2 | y = 1) + U(s'1) + U(s'2) ] + b_r [ A(0, s1 | y = 0) +
    A(0, s2 | y = 0) ] / 2 + lam mean over both sides of mean_i log mean_j k_c k_s', j = i too.
    Reduces to: alignment and twice uniformity of c, for b_t = b_r = lam = 0; log mean_j k_c where s is 0.
    Differs from the paper: image and caption for two views; weights of 1 where its code has 1000, 1000 and 10; s is cut
    at norm_cap. What is in no domain, or another than `target`, is background. A and the mean over i go by weights.
    """

    target: int = 1  # number of the domain whose salient part is wanted (mmclr data label --name domain)
    common: int = 64  # features of c
    salient: int = 32  # features of s
    b_t: float = 1.0  # weight of what s is in the target domain, >= 0
    b_r: float = 1.0  # weight of s being 0 in the background, >= 0
    lam: float = 1.0  # weight of the joint entropy of c and s, >= 0
    tau: float = 0.5  # width of the kernels, above 0
    norm_cap: float = 10.0  # longest s, above 0

    def setup(self, facts: Facts) -> None:
        self.head = _head(self.common, self.salient, self.norm_cap, facts)

    def forward(self, image: Tensor, text: Tensor, domain: Tensor, weights: Tensor) -> Tensor:
        y = (domain == self.target).to(weights)
        targets, samples = float(parallel.total(y.sum())), parallel.count(y)
        if samples >= MANY and targets in (0, samples):
            hint(
                f"sepclr: {'no sample' if not targets else 'every sample'} of the batch is in domain {self.target}, so "
                "there is nothing to separate: set target to a number of data.fields.domain"
            )
        one, two = self.head.parts(image, "image"), self.head.parts(text, "text")
        return separate(one, two, y, weights, self.tau, (self.b_t, self.b_r, self.lam))


class SepCLRPlain(Objective, key="sepclr_plain"):
    """Separate what images and captions have in common from what is salient in each, without domains.

    Louiset et al., Separating common from salient patterns with Contrastive Representation Learning, ICLR 2024, arXiv
    2402.11928, as sepclr: L = A(c1, c2) + U(c1) + U(c2) + lam mean over both sides of mean_i log mean_j k_c k_s, with s
    of every sample.
    Reduces to: alignment and twice uniformity of c, for lam 0.
    Differs from the paper: derived from it. There is no background, so nothing asks s to be 0, and nothing aligns it.
    """

    common: int = 64  # features of c
    salient: int = 32  # features of s
    lam: float = 1.0  # weight of the joint entropy of c and s, >= 0
    tau: float = 0.5  # width of the kernels, above 0
    norm_cap: float = 10.0  # longest s, above 0

    def setup(self, facts: Facts) -> None:
        self.head = _head(self.common, self.salient, self.norm_cap, facts)

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        one, two = self.head.parts(image, "image"), self.head.parts(text, "text")
        jem = joint_entropy(*one, weights, self.tau) + joint_entropy(*two, weights, self.tau)
        return shared(one[0], two[0], weights, self.tau) + self.lam * jem / 2


def separate(
    one: Parts, two: Parts, y: Tensor, weights: Tensor, tau: float, strengths: tuple[float, float, float]
) -> Tensor:
    """Return L of both sides' parts c [b, common] and s [b, salient], y [b] 1 in the target domain and 0 elsewhere: [].

    `strengths` are b_t, b_r and lam.
    """
    (c1, s1), (c2, s2) = one, two
    kept1, kept2 = s1 * y[:, None], s2 * y[:, None]
    b_t, b_r, lam = strengths
    salient = shared(kept1, kept2, weights * y, tau)
    null = parallel.mean(s1.square().sum(1) + s2.square().sum(1), weights * (1 - y)) / (4 * tau)
    jem = (joint_entropy(c1, kept1, weights, tau) + joint_entropy(c2, kept2, weights, tau)) / 2
    return shared(c1, c2, weights, tau) + b_t * salient + b_r * null + lam * jem


def shared(x: Tensor, y: Tensor, weights: Tensor, tau: float) -> Tensor:
    """Return A(x, y) + U(x) + U(y), []: alignment by weights [b], and uniformity of all rows [b, D]."""
    apart = parallel.mean((x - y).square().sum(1), weights) / (2 * tau)
    return apart + sum(log_mean_kernel(side, side, 1 / (2 * tau), unit=False) for side in (x, y))


def joint_entropy(c: Tensor, s: Tensor, weights: Tensor, tau: float) -> Tensor:
    """Return mean_i log mean_j k_c(i, j) k_s(i, j), []: less where c and s vary more, and apart from each other.

    The product of two kernels of one width is the kernel of both vectors in a row.
    """
    both = torch.cat([c, s], 1)
    rows = log_kernels(both, both, 1 / (2 * tau)) - math.log(max(1, parallel.count(both)))
    return parallel.mean(rows, weights).to(c.dtype)


def _head(common: int, salient: int, norm_cap: float, facts: Facts) -> SplitHead:
    return Split(common=common, salient=salient, norm_cap=norm_cap).make(facts.width)
