"""The contrast whose denominator holds negatives only."""

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import dual_lse, merge
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class DCL(Objective, key="dcl"):
    """Leave the positive out of the denominator, so that easy positives do not weaken the push of the negatives.

    Yeh et al., Decoupled Contrastive Learning, ECCV 2022, arXiv 2110.06848. With s_ij = scale * <image_i, text_j>:
    L = mean_i [ log sum_{j != i} exp s_ij - s_ii ], averaged with the same over captions; may be negative.
    Reduces to: clip + log(1 - P_ii), where P_ii is the positive's softmax.
    Differs from the paper: image and text instead of two views, whose own negatives `intra` adds; with a learnt scale
    it is unbounded below, so keep model.max_scale. An anchor without negatives counts 0.
    """

    intra: bool = False  # images are negatives of images and captions of captions, too
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        row, col, pair, *_ = dual_lse(image, text, scale, exclude=same)
        if self.intra:
            row = merge(row, dual_lse(image, image, scale, exclude=same).row)
            col = merge(col, dual_lse(text, text, scale, exclude=same).row)
        pull = self._pull(image, text) * pair
        return parallel.mean(_less(row, pull) + _less(col, pull), weights) / 2

    def _pull(self, image: Tensor, text: Tensor) -> Tensor | float:
        """Return the weight of each positive, [b]."""
        return 1.0


class DCLW(DCL, key="dclw"):
    """Decoupled contrast in which the positives that are far apart pull harder.

    Yeh et al., Decoupled Contrastive Learning, ECCV 2022, arXiv 2110.06848. As dcl, with
    L_i = log sum_{j != i} exp s_ij - w_i s_ii and w_i = 2 - B * softmax_i(<image_i, text_i> / sigma), no gradient.
    Reduces to: dcl, where all positives are equally close, or for sigma to infinity.
    Differs from the paper: as dcl; the softmax is over the global batch.
    """

    sigma: float = 0.5  # temperature of the positives' weights, > 0

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma is a temperature, above 0, not {self.sigma}")

    def _pull(self, image: Tensor, text: Tensor) -> Tensor:
        cosine = (image * text).sum(1).detach()
        share = ((cosine - parallel.largest(cosine)) / self.sigma).exp()
        return 2 - share / parallel.mean(share)


def _less(negatives: Tensor, pull: Tensor) -> Tensor:
    return torch.where(negatives == -torch.inf, 0.0, negatives - pull)
