"""Tell an image's clusters from all others, with a class matrix that no rank holds whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.losses.algebra import Where, dual_lse
from mmclr.losses.objective import Facts, Objective
from mmclr.losses.per_sample_state import Table

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam, by which classes move


class MLCD(Objective, key="mlcd"):
    """Classify images among clusters that were found beforehand; several are right, and told apart from the others.

    An et al., Multi-label Cluster Discrimination for Visual Representation Learning, ECCV 2024, arXiv 2407.17331. With
    unit classes w, s_ic = scale * (<w_c, image_i> - [c in P_i] margin), P_i the image's clusters and N a random share
    of the others, drawn anew each step:
    L = mean_i [ log(1 + sum_{c in P_i} exp(-s_ic)) + log(1 + sum_{c in N} exp s_ic) ].
    Reduces to: softplus(-s_p) + softplus(s_n), for one positive and one negative.
    Differs from the paper: scale and margin, which it does not print, are those of PartialFC; a class that is drawn is
    a negative of every image that is not in it. Classes are no weights but state, k (3 D + 1) float32 shared out
    among ranks: those that were looked at move after each step, by Adam at `lr`, whatever the weight of this term.
    """

    scale: float = 64.0  # of the cosines; with few classes less is enough
    share: float = 0.1  # r, share of the classes that are drawn each step, above 0 to 1
    margin: float = 0.0  # that a positive must be closer, in cosines
    joint: bool = False  # the baseline MLC: log(1 + sum_{c in P, n in N} exp(s_in - s_ic))
    lr: float = 1e-3  # rate of the classes, which falls to 0 like a cosine

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 to 1, not {self.share}")

    def setup(self, facts: Facts) -> None:
        if not facts.clusters:
            raise ConfigError("objectives: mlcd needs data.clusters, labels that `mmclr data cluster` writes")
        # the class, both moments of its gradient, how often it was looked at
        self.classes = Table(facts.clusters, torch.zeros(3 * facts.width + 1))
        self.classes.draw(facts.width)

    def forward(self, image: Tensor, clusters: Tensor, weights: Tensor, progress: Tensor) -> Tensor:
        drawn, right = self._draw().to(image.device), _distinct(clusters)
        negatives = parallel.own_rows(drawn)
        numbers = torch.cat([negatives, right.flatten()])
        rows = self.classes.read(numbers)[:, : image.shape[1]].to(image.dtype)
        rows.requires_grad_(torch.is_grad_enabled())
        w = F.normalize(rows, dim=1)
        cosines = (image[:, None] * w[len(negatives) :].unflatten(0, right.shape)).sum(2)
        of_right = torch.where(right >= 0, self.scale * (self.margin - cosines), -torch.inf)
        every = parallel.gather(right)

        def left_out(rows: slice, cols: slice) -> Tensor:
            return (every[rows][:, :, None] == drawn[cols]).any(1) | (drawn[cols] < 0)

        of_wrong = dual_lse(image, w[: len(negatives)], self.scale, exclude=Where(left_out)).row
        value = parallel.mean(self._loss(of_right, of_wrong), weights)
        if torch.is_grad_enabled():
            (slope,) = torch.autograd.grad(value, rows, retain_graph=True)
            rate = self.lr * (1 + math.cos(math.pi * float(progress))) / 2
            self.found = numbers, slope / parallel.world(), rate
        return value

    def _draw(self) -> Tensor:
        """Return this step's negatives, the same classes on every rank, with -1 up to a multiple of ranks."""
        count = max(1, round(self.share * self.classes.count))
        drawn = torch.arange(count) if count == self.classes.count else torch.randperm(self.classes.count)[:count]
        return F.pad(drawn, (0, -count % parallel.world()), value=-1)

    def _loss(self, of_right: Tensor, of_wrong: Tensor) -> Tensor:
        """Return each image's loss, [b], from -s of its positives [b, C] and the log-sum-exp of its negatives [b]."""
        if not self.joint:
            zero = torch.zeros_like(of_wrong)[:, None]
            return torch.cat([zero, of_right], 1).logsumexp(1) + F.softplus(of_wrong)
        some = (of_right > -torch.inf).any(1)
        lse = torch.where(some[:, None], of_right, 0.0).logsumexp(1)
        return torch.where(some, F.softplus(lse + of_wrong), 0.0)

    def after_step(self) -> None:
        numbers, slope, rate = self.found
        rows, sums, _ = self.classes.sums(numbers, slope)
        width = slope.shape[1]
        w, first, second, steps = self.classes.rows[rows].split([width, width, width, 1], 1)
        sums, steps = sums.to(w), steps + 1
        first = first.lerp(sums, 1 - BETAS[0])
        second = second.lerp(sums.square(), 1 - BETAS[1])
        step = first / (1 - BETAS[0] ** steps) / ((second / (1 - BETAS[1] ** steps)).sqrt() + EPS)
        self.classes.rows[rows] = torch.cat([w - rate * step, first, second, steps], 1)


def _distinct(clusters: Tensor) -> Tensor:
    """Return labels [b, C] with -1 for those that a row has already."""
    again = (clusters[:, :, None] == clusters[:, None, :]).tril(-1).any(2)
    return clusters.masked_fill(again, -1)
