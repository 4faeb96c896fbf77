"""Negatives that are harder than any of the batch, mixed from its hardest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.losses.algebra import Mask, dual_lse, merge, top
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class MoCHi(Objective, key="mochi"):
    """Mix each anchor's hardest negatives with each other, or with the anchor, into further negatives.

    Kalantidis et al., Hard Negative Mixing for Contrastive Learning, NeurIPS 2020, arXiv 2010.01028. With s_ij =
    scale * <image_i, text_j>, random a, b of the n hardest captions of image i, alpha in (0, 1), beta in (0, .5):
    h = unit(alpha text_a + (1-alpha) text_b), h' = unit(beta image_i + (1-beta) text_a), without gradient,
    L = mean_i softplus(log [ sum_{j != i} exp s_ij + sum_h exp(scale * <image_i, h>) ] - s_ii), halved with the same
    of captions.
    Reduces to: clip, for s = t = 0 and before `begin`.
    Differs from the paper: the batch in place of a queue; no mixes with the anchor by default, which would lie between
    the modalities; a and b differ.
    """

    n: int = 64  # hardest negatives that are mixed
    s: int = 16  # mixes of two negatives, per anchor
    t: int = 0  # mixes of a negative with the anchor itself (the paper's s'), per anchor
    begin: float = 0.1  # share of the training before the first mix, 0 to 1
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if self.n < 1 or min(self.s, self.t) < 0:
            raise ValueError(f"n is at least 1, s and t at least 0, not {self.n}, {self.s} and {self.t}")

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
        row, col, pair, *_ = dual_lse(image, text, scale, exclude=same)
        if self.s + self.t and progress >= self.begin:
            row = merge(row, self._mixed(image, text, scale, index, same))
            col = merge(col, self._mixed(text, image, scale, index, same))
        return -parallel.mean(F.logsigmoid(pair - row) + F.logsigmoid(pair - col), weights) / 2

    def _mixed(self, x: Tensor, y: Tensor, scale: Tensor, index: Tensor, same: Mask) -> Tensor:
        """Return the log-sum-exp of each anchor's similarities to its mixes: [b], -inf where it has no negative."""
        hardest = top(x, y.detach(), self.n, exclude=same)
        count = (hardest.values > -torch.inf).sum(1, keepdim=True)
        values = torch.where(hardest.values == -torch.inf, 0.0, hardest.values)
        drawn = sample_random.uniform(index, sample_random.seed(index), 3 * self.s + 2 * self.t)
        first, step, alpha = drawn[:, : 3 * self.s].chunk(3, 1)
        one, beta = drawn[:, 3 * self.s :].chunk(2, 1)
        a = (first * count).long()
        b = (a + 1 + (step * (count - 1)).long()) % count.clamp_min(1)
        near = mix_two(values, hardest.columns, parallel.gather(y.detach()), a, b, alpha.to(x.dtype))
        nearer = mix_anchor(x, values, (one * count).long(), (beta / 2).to(x.dtype))
        return torch.where(count[:, 0] > 0, (scale * torch.cat([near, nearer], 1)).logsumexp(1), -torch.inf)


def mix_two(values: Tensor, columns: Tensor, every: Tensor, a: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
    """Return the similarities [n, s] of anchors to unit(alpha y_a + (1 - alpha) y_b), which have no gradient.

    values and columns [n, k] are each anchor's similarities to rows of every [B, D]; a, b [n, s] are places in k.
    """
    cosines = torch.empty_like(alpha)
    for mix, (i, j) in enumerate(zip(columns.gather(1, a).T, columns.gather(1, b).T)):
        cosines[:, mix] = (every[i] * every[j]).sum(1)
    mixed = alpha * values.gather(1, a) + (1 - alpha) * values.gather(1, b)  # linear in the anchor, as it should be
    return mixed / _length(alpha, cosines)


def mix_anchor(x: Tensor, values: Tensor, a: Tensor, beta: Tensor) -> Tensor:
    """Return the similarities [n, t] of anchors to unit(beta x + (1 - beta) y_a), which have no gradient."""
    near = values.gather(1, a)
    mixed = beta * (x * x.detach()).sum(1, keepdim=True) + (1 - beta) * near
    return mixed / _length(beta, near.detach())


def _length(share: Tensor, cosine: Tensor) -> Tensor:
    """Return |share p + (1 - share) q| of unit vectors."""
    squared = share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * cosine
    return squared.clamp_min(1e-12).sqrt()
