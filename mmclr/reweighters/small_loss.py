"""Count pairs less whose image and text agree little beside the others of the batch: probably they do not belong."""

from __future__ import annotations

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.errors import UserError
from mmclr.reweighters.reweighter import Reweighter


class SmallLoss(Reweighter, key="small_loss"):
    """Take pairs with a large loss for wrong ones, and let a pair count what it is likely to be right.

    Albert et al., An accurate detection is not all you need to combat label noise in web-noisy datasets, ECCV 2024,
    arXiv 2407.05528: their small-loss detector. With l_i = 1 - <frozen_image_i, frozen_text_i> and z its place between
    the least and largest of the batch: two normal distributions are fitted to z by EM, started at 0 and 1;
    w_i = P(lower one | z_i); L = any objective with these weights.
    Reduces to: the term without it, before `begin`, where all l are equal, or the means nearer than `gap`.
    Differs from the paper: fitted to each global batch and not to all samples at once, of the cosine and not of a
    classifier's loss; without their linear detector, which needs features of the whole set. Without `teacher:` (whose
    towers must share a space) the model in training judges its own pairs: then `begin` is the warm-up.
    """

    begin: float = 0.1  # share of the training before which all pairs count 1
    gap: float = 0.25  # least distance of the two means, as a share of the range of l; else there is one sort of pairs
    iterations: int = 10  # of EM
    floor: float = 5e-4  # least variance of z, added as in the paper's code

    def __post_init__(self) -> None:
        for name in ("begin", "gap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        if self.iterations < 1 or self.floor <= 0:
            raise ValueError("iterations is at least 1, and floor above 0")

    def forward(self, frozen_image: Tensor, frozen_text: Tensor, progress: Tensor) -> Tensor:
        if frozen_image.shape[1] != frozen_text.shape[1]:
            raise UserError(
                f"small_loss compares frozen_image with frozen_text, which have {frozen_image.shape[1]} and "
                f"{frozen_text.shape[1]} features: name a `teacher:` whose towers share a space, or none"
            )
        rows = parallel.rows_of(len(frozen_image))
        loss = rows.gather(1 - (frozen_image * frozen_text).sum(1)).double()
        if not len(loss):
            return frozen_image.new_ones(0)
        low, high = loss.min(), loss.max()
        z = (loss - low) / torch.where(high > low, high - low, 1.0)
        right, gap = lower_of_two(z, self.iterations, self.floor)
        sure = (high > low) & (gap >= self.gap) & (progress >= self.begin)
        return rows.own(torch.where(sure, right, 1.0)).to(frozen_image)


def lower_of_two(z: Tensor, iterations: int, floor: float) -> tuple[Tensor, Tensor]:
    """Fit two normal distributions to z [n] by EM, their means started at the least and the largest value.

    Return how probably each value is of the lower one, [n], and how far the means are apart, [].
    """
    mean, share = torch.stack([z.min(), z.max()]), z.new_full((2,), 0.5)
    variance = z.var(correction=0).expand(2) + floor
    for _ in range(iterations):
        member = _members(z, mean, variance, share)
        count = member.sum(0).clamp_min(1e-12)
        mean = (member * z[:, None]).sum(0) / count
        variance = (member * (z[:, None] - mean).square()).sum(0) / count + floor
        share = count / len(z)
    lower = mean.argmin()
    return _members(z, mean, variance, share)[:, lower], mean.max() - mean.min()


def _members(z: Tensor, mean: Tensor, variance: Tensor, share: Tensor) -> Tensor:
    """Return the posterior [n, 2] of both distributions."""
    return (share.log() - variance.log() / 2 - (z[:, None] - mean).square() / (2 * variance)).softmax(1)
