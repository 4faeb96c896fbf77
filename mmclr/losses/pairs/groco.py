"""Positives must rank above the strongest negatives: a sorting network that can be differentiated."""

import math
from typing import Literal

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import Mask, top
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective

EDGE = 1e-7  # probabilities stay this far from 0 and 1


class GroCo(Objective, key="groco"):
    """Sort an anchor's positives and its k closest negatives, and ask of each on which side of the border it ends.

    Shvetsova et al., Learning by Sorting, ICCV 2023, arXiv 2301.02009. Scores x = [negatives ascending, P positives
    ascending] pass an odd-even sorting network of k + P layers, in which neighbours p, q change places with probability
    1/2 - atan(steepness * (q - p)) / pi; pi_e is the probability that e comes out among the upper P:
    L = mean_i mean_e BCE(pi_e, e is a positive), averaged with the same of captions. Gradients reach the anchor alone.
    Reduces to: -log(1/2 + atan(positive - negative) / pi) for k = 1 and a single caption.
    Differs from the paper: image and captions instead of crops; the other modality's negatives by default, of images
    the first captions.
    """

    k: int = 10  # closest negatives of each anchor, >= 1
    steepness: float = 1.0  # how sure a comparison is, > 0
    negatives: Literal["other", "own", "both"] = "other"  # of the anchor's other modality, its own, or k of either
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if self.k < 1 or self.steepness <= 0:
            raise ValueError(f"k is at least 1 and steepness above 0, not {self.k} and {self.steepness}")

    def forward(self, image: Tensor, texts: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor) -> Tensor:
        same, text = not_negatives(self.duplicates, image_id, caption_id), texts[:, 0]
        of_image = (image[:, None] * texts.detach()).sum(2)
        of_text = (text * image.detach()).sum(1, keepdim=True)
        loss = [
            self._disorder(positives, self._closest(x, y, same))
            for x, y, positives in ((image, text, of_image), (text, image, of_text))
        ]
        return parallel.mean(loss[0] + loss[1], weights) / 2

    def _closest(self, x: Tensor, y: Tensor, same: Mask) -> Tensor:
        """Return the scores of each anchor's closest negatives, from the largest down: [b, k]."""
        sides = {"other": (y,), "own": (x,), "both": (x, y)}[self.negatives]
        k = min(self.k, max(1, parallel.count(x) - 1))
        found = torch.cat([top(x, side.detach(), k, exclude=same).values for side in sides], 1)
        return found.sort(1, descending=True).values[:, : self.k]

    def _disorder(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the mean cross-entropy of each anchor's elements, [b]; negatives of -inf are none."""
        there = torch.cat([negatives.flip(1) > -torch.inf, torch.ones_like(positives, dtype=torch.bool)], 1)
        low = torch.where(there[:, : negatives.shape[1]], negatives.flip(1), -1e6)
        above = upper_share(torch.cat([low, positives.sort(1).values], 1), positives.shape[1], self.steepness)
        right = torch.cat([1 - above[:, : low.shape[1]], above[:, low.shape[1] :]], 1).clamp(EDGE, 1)
        return -(right.log() * there).sum(1) / there.sum(1)


def upper_share(x: Tensor, upper: int, steepness: float) -> Tensor:
    """Return the probability [n, m] that each of the scores [n, m] is among the `upper` highest after sorting."""
    return ranks(x, steepness)[:, :, x.shape[1] - upper :].sum(2)


def ranks(x: Tensor, steepness: float) -> Tensor:
    """Return the probability that element e of the scores [n, m] gets rank r: [n, m (e), m (r)], doubly stochastic."""
    m = x.shape[1]
    places = torch.eye(m, dtype=x.dtype, device=x.device).expand(len(x), m, m)
    for layer in range(m):
        at = slice(layer % 2, (m - layer % 2) // 2 * 2 + layer % 2)
        pairs, columns = x[:, at].unflatten(1, (-1, 2)), places[:, :, at].unflatten(2, (-1, 2))
        stay = 0.5 + (steepness * (pairs[..., 1] - pairs[..., 0])).atan()[..., None] / math.pi
        x = _put(x, at, (stay * pairs + (1 - stay) * pairs.flip(2)).flatten(1))
        stay = stay[:, None]
        places = _put(places, at, (stay * columns + (1 - stay) * columns.flip(3)).flatten(2))
    return places


def _put(x: Tensor, at: slice, part: Tensor) -> Tensor:
    """Return x with its last dimension's part `at` replaced."""
    return torch.cat([x[..., : at.start], part, x[..., at.stop :]], -1)
