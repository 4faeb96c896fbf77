"""Mixtures that belong to two samples at once, and later the softness of the batch itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.losses.algebra import dual_lse
from mmclr.losses.objective import Objective


class M3CoL(Objective, key="m3col"):
    """Mix two samples in one modality and match the mixture to both in the other; later use soft targets.

    Kumar et al., Harnessing Shared Relations via Multimodal Mixup Contrastive Learning, TMLR 2025, arXiv 2409.17777.
    m_i = unit(w_i x_i + (1-w_i) x_p(i)), partners p random, w ~ Beta(beta, beta) for a share of the rows and 1 for the
    others, P_ii = w_i, P_ip(i) = 1 - w_i, S = m y^T / tau:  L = H(P, softmax_row S) / 2 + H(P^T, softmax_col S) / 2,
    summed over x, y = text, image and image, text; H(P, Q) = -mean_i sum_j P_ij log Q_ij. After `switch`:
    H(T, softmax_row U) / 2 + H(T, softmax_col U) / 2 with U = x y^T / soft_tau, T = softmax_row(y y^T / soft_tau).
    Reduces to: 2 * clip at temperature tau, for mixed 0.
    Differs from the paper: beside clip instead of its classifiers (weight 0.1); embeddings are mixed.
    """

    tau: float = 0.1  # temperature of the mixtures
    beta: float = 0.15  # parameter of the mixing weights' distribution, above 0 to 1; low: nearly all of one sample
    mixed: float = 0.5  # share of the rows that are mixed, 0 to 1
    switch: float = 0.33  # share of the training after which soft targets take over, 0 to 1
    soft_tau: float = 0.125  # temperature of the soft targets

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta is above 0 to 1, not {self.beta}")

    def forward(self, image: Tensor, text: Tensor, index: Tensor, weights: Tensor, progress: Tensor) -> Tensor:
        if progress >= self.switch:
            loss = soft_clip(text, image, self.soft_tau) + soft_clip(image, text, self.soft_tau)
        else:
            loss = self._mix(text, image, index) + self._mix(image, text, index)
        return parallel.mean(loss, weights)

    def _mix(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        seed = sample_random.seed(index)
        partner = sample_random.partners(index, seed)
        chosen = sample_random.uniform(index, seed, 1)[:, 0] < self.mixed
        share = torch.where(chosen, sample_random.beta(index, seed + 1, self.beta, self.beta), 1.0).to(x.dtype)
        mixture = F.normalize(share[:, None] * x + (1 - share)[:, None] * parallel.gather(x)[partner], dim=1)
        return mixed_contrast(mixture, y, share, partner, self.tau)


def mixed_contrast(mixture: Tensor, y: Tensor, share: Tensor, partner: Tensor, tau: float) -> Tensor:
    """Return each row's part of both cross-entropies, halved: [b].

    mixture and y [b, D] are this rank's rows; mixture i belongs to y_i by share_i [b] and to the global row partner_i
    [b] by the rest.
    """
    lse = dual_lse(mixture, y, 1 / tau)
    other = (mixture * parallel.gather(y)[partner]).sum(1) / tau
    of_row = lse.row - share * lse.pair - (1 - share) * other
    of_col = share * (lse.col - lse.pair) + (1 - share) * (parallel.gather(lse.col)[partner] - other)
    return (of_row + of_col) / 2


def soft_clip(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """Return each row's part of the cross-entropies of x y^T / tau, both ways, to softmax(y y^T / tau): [b].

    What a row of targets sees of x and of y is an attention, so that no matrix of the batch is made.
    """
    lse, every_x, every_y = dual_lse(x, y, 1 / tau), parallel.gather(x), parallel.gather(y)
    of_x, of_y = (
        F.scaled_dot_product_attention(y[None, None], every_y[None, None], every[None, None], scale=1 / tau)[0, 0]
        for every in (every_x, every_y)
    )
    return (lse.row + lse.col - ((x * of_y).sum(1) + (y * of_x).sum(1)) / tau) / 2
