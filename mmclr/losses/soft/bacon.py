"""Soft targets from clusters of captions, corrected for how rare each cluster is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import dual_lse, low_rank
from mmclr.losses.clusters.clustering import Clustering
from mmclr.losses.objective import Facts, Objective


class BaCon(Objective, key="bacon"):
    """Count captions of the same clusters as targets too, rare clusters more, and use all clusters evenly.

    Bai et al., Towards Distribution-Agnostic Generalized Category Discovery (BaCon), NeurIPS 2023, arXiv 2310.01376.
    With unit means c_k of clusters of captions, n_k captions in each and pi = n / sum n,
    q_i = softmax(<text_i, c> / tau - rho log pi), M_ij = <q_i, q_j> and M_ii = 1, s_ij = scale * <image_i, text_j>:
    L_image = -mean_i sum_j M_ij log softmax_j(s_ij) / sum_j M_ij, L = (L_image + L_text) / 2
    + reg * (sum_k p_k log p_k + log K), where p_k ~ mean_i softmax(<image_i, c> / tau)_k / n_k^exponent adds up to 1.
    Reduces to: clip without masked duplicates, where no two captions share a cluster and reg is 0; so it is until there
    are clusters.
    Differs from the paper: image and caption in place of two views; clusters are of captions, without known classes and
    their matching; its supervised and distillation losses are left out, and its choice of samples is data.order:
    balanced. No gradient reaches M, c and n.
    """

    clusters: int = 256  # K; at most one for every 4 samples
    refresh: int = 2000  # steps between two rounds of clustering; early in the training they come sooner
    rho: float = 0.5  # of the correction for rare clusters; 0: none
    tau: float = 0.1  # temperature of the assignment to clusters
    exponent: float = 1.1  # by how much rare clusters count in the even use of all
    reg: float = 1.0  # weight of the even use of all clusters, >= 0

    def setup(self, facts: Facts) -> None:
        self.clustering = Clustering([self.clusters], facts, self.refresh)

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ready = self.clustering.ready
        self.clustering.keep(index, text)
        if not ready:
            lse = dual_lse(image, text, scale)
            return parallel.mean((lse.row + lse.col) / 2 - lse.pair, weights)
        clusters = self.clustering[0]
        there = (clusters.counts > 0).nonzero()[:, 0]
        means, counts = F.normalize(clusters.means[there].to(image), dim=1), clusters.counts[there].to(image)
        q = posterior(text.detach() @ means.T / self.tau, counts, self.rho)
        p = parallel.mean((image @ means.T / self.tau).softmax(1), weights)
        return contrast(image, text, q, scale, weights) + self.reg * unevenness(p, counts, self.exponent)

    def after_step(self) -> None:
        self.clustering.update()


def posterior(logits: Tensor, counts: Tensor, rho: float) -> Tensor:
    """Return the share of each cluster in each sample, as if all clusters were equally large for rho 1: [b, K]."""
    return (logits - rho * (counts / counts.sum()).log()).softmax(1)


def unevenness(p: Tensor, counts: Tensor, exponent: float) -> Tensor:
    """Return how far shares p [K] over counts^exponent are from even: their divergence from 1 / K, 0 to log K."""
    # a share of 0 has no logarithm; p is 0 for all where no sample has a weight
    shares = F.normalize(p.clamp_min(torch.finfo(p.dtype).tiny) / (counts / counts.max()) ** exponent, p=1, dim=0)
    return torch.log(shares.new_tensor(len(shares))) + torch.xlogy(shares, shares).sum()


def contrast(image: Tensor, text: Tensor, q: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    """Return the contrast of pairs [b, D] with targets M = q q^T, 1 for a pair itself, from constants q [b, K]: []."""
    lse = dual_lse(image, text, scale)
    own = q.square().sum(1)
    total = q @ parallel.total(q.sum(0)) - own + 1
    both = scale * (low_rank(image, text, q, q) + low_rank(text, image, q, q)) / 2 + (1 - own) * lse.pair
    return parallel.mean((lse.row + lse.col) / 2 - both / total, weights)
