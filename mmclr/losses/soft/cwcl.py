"""Continuously weighted contrast: a frozen model says how alike two samples are."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Pairs, TileWeight, dual_lse, low_rank, weighted
from mmclr.losses.objective import Objective


class CWCL(Objective, key="cwcl"):
    """Spread the target of an image over all captions, by how much a frozen model finds their images alike.

    Srinivasa et al., CWCL, NeurIPS 2023, arXiv 2309.14580. With s_ij = scale * <image_i, text_j>, frozen features p,
    c = <p_i, p_j> and w_ij = (1 + c) / 2:  L = mean_i [ log sum_j exp s_ij - sum_j w_ij s_ij / sum_j w_ij ]
    + mean_i [ log sum_j exp s_ji - s_ii ]: a sum of both directions, the second is plain InfoNCE.
    Reduces to: 2 * clip, for a kernel that is 1 for a sample with itself and 0 else (exp, width to 0).
    Differs from the paper: power and exp kernels; weights come from frozen features, not from the tower in training.
    """

    kernel: Literal["affine", "power", "exp"] = "affine"  # w of c: (1+c)/2, ((1+c)/2)^width, exp((c-1)/width)
    width: float = 1.0  # of the power or exp kernel, > 0; affine has none
    soft_weight: float = 1.0  # weight of the direction that is anchored in the frozen modality, >= 0
    hard_weight: float = 1.0  # weight of the other direction, >= 0

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width must be above 0, not {self.width}")

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, frozen_image: Tensor, weights: Tensor) -> Tensor:
        return self._contrast(image, text, scale, frozen_image, weights)

    def _contrast(self, anchor: Tensor, other: Tensor, scale: Tensor, frozen: Tensor, weights: Tensor) -> Tensor:
        lse = dual_lse(anchor, other, scale, exclude=Pairs())
        soft = -F.logsigmoid(lse.pair - lse.row) + lse.pair - self._target(anchor, other, scale, frozen.detach())
        hard = -F.logsigmoid(lse.pair - lse.col)
        return parallel.mean(self.soft_weight * soft + self.hard_weight * hard, weights)

    def _target(self, anchor: Tensor, other: Tensor, scale: Tensor, frozen: Tensor) -> Tensor:
        """Return the weighted mean of s over each anchor's row, [b]."""
        if self.kernel == "affine":  # of rank R + 1: no tile is needed
            total = (anchor * parallel.mean(other)).sum(1)
            alike = low_rank(anchor, other, frozen, frozen)
            samples = parallel.count(frozen)
            return scale * (total * samples + alike) / (samples + (frozen * parallel.mean(frozen)).sum(1) * samples)
        sums = weighted(anchor, other, self._kernel(frozen), scale)
        return sums.row / sums.row_total

    def _kernel(self, frozen: Tensor) -> TileWeight:
        every = parallel.gather(frozen)

        def weight(rows: slice, cols: slice) -> Tensor:
            cosine = every[rows] @ every[cols].T
            if self.kernel == "power":
                return ((1 + cosine) / 2).clamp_min(0) ** self.width
            return ((cosine - 1) / self.width).exp()

        return weight


class CWCLText(CWCL, key="cwcl_text"):
    """Spread the target of a caption over all images, by how much a frozen model finds their captions alike.

    Srinivasa et al., CWCL, NeurIPS 2023, arXiv 2309.14580. As cwcl with the modalities exchanged, p_i frozen features
    of captions, w_ij = (1 + <p_i, p_j>) / 2:  L = mean_i [ log sum_j exp s_ji - sum_j w_ij s_ji / sum_j w_ij ]
    + mean_i [ log sum_j exp s_ij - s_ii ]. With cwcl beside it and hard_weight 0 in both, both directions are soft.
    Reduces to: 2 * clip, for a kernel that is 1 for a sample with itself and 0 else (exp, width to 0).
    Differs from the paper: as cwcl.
    """

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, frozen_text: Tensor, weights: Tensor) -> Tensor:
        return self._contrast(text, image, scale, frozen_text, weights)
