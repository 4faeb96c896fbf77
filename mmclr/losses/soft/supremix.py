"""Hard pairs for targets that are numbers, mixed from the batch: between an anchor and another, and around it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.losses.algebra import Pairs, TileWeight, chosen, joint_lse, merge
from mmclr.losses.hints import MANY, hint
from mmclr.losses.objective import Objective

Magnified = Literal["l1", "l2", "none"]


class SupReMix(Objective, key="supremix"):
    """Mix an anchor's caption with others into hard negatives, and captions around its target into hard positives.

    Wu et al., Mixup Your Own Pairs, 2023, arXiv 2309.16633. Image i with target y_i has negatives c_ik text_i +
    (1-c_ik) text_k of target c_ik y_i + (1-c_ik) y_k for all y_k != y_i, c_ik ~ Beta(beta); and positives P_i: text_i
    and all c text_j + (1-c) text_k with y_i - window < y_j < y_i < y_k < y_i + window, c = (y_k-y_i) / (y_k-y_j).
    s_ip = <image_i, p> / tau, mixes without gradient, w = 1 for P_i, else 1 + |y_i - y| (l1), 1 + (y_i - y)^2 (l2):
    L_i = log sum_a w_ia exp s_ia - mean_{P_i} s_ip, a over all captions and mixes of i;
    L = mean_i L_i, halved with the same of captions among images. Targets are equal within `tolerance`.
    Reduces to: clip at temperature tau, for samples without a target.
    Differs from the paper: image and caption, so others of equal target are negatives of weight 1. A mean over |P_i|,
    not |P_i| + 1, and one softmax. Of more than max_pos mixed positives as many are drawn, and count for all.
    """

    window: float = 0.0  # difference of targets up to which positives are mixed, in their units; 0: any
    beta: tuple[float, float] = (2.0, 8.0)  # of the anchor's share in a negative, both above 0
    magnify: Magnified = "l1"  # what a negative counts by the distance of its target
    tau: float = 0.07  # temperature
    max_pos: int = 32  # positives that are mixed for each anchor; 0: none
    tolerance: float = 0.0  # difference up to which targets are equal, >= 0
    unit: bool = False  # mixes have length 1

    def __post_init__(self) -> None:
        if min(self.beta) <= 0 or self.tau <= 0:
            raise ValueError(f"beta and tau are above 0, not {self.beta} and {self.tau}")
        if min(self.window, self.max_pos, self.tolerance) < 0:
            raise ValueError("window, max_pos and tolerance are at least 0")

    def forward(self, image: Tensor, text: Tensor, target: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        y = target.detach().to(image)
        every_y, numbers = parallel.gather(y), parallel.gather(index)
        if len(every_y) >= MANY and not bool(every_y.isfinite().any()):
            hint("supremix: no sample of the batch has a target, so this is clip: set data.fields.target to a number")
        seed = sample_random.seed(index)
        real = self._real(image, text, y)
        loss = torch.zeros_like(weights)
        for side, (anchor, other, lse) in enumerate(((image, text, real[0]), (text, image, real[1]))):
            share = self._shares(numbers, seed + 2 * side)
            negative = mixed_negatives(
                anchor, other, y, every_y, share, self.tau, self.magnify, self.tolerance, self.unit
            )
            around = surrounding(y, index, every_y, numbers, seed + 2 * side + 1, self)
            loss = loss + ordinal(anchor, other, merge(lse, negative), around, self.tau, self.unit)
        return parallel.mean(loss, weights) / 2

    def _real(self, image: Tensor, text: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-sum-exp of each row and column over the others of the batch."""
        return joint_lse(
            [(image, text)],
            lambda s, a, b: s / self.tau + magnified((a - b).abs().nan_to_num(0.0), self.magnify),
            rows=[y],
            cols=[y],
            exclude=Pairs(),
        )

    def _shares(self, numbers: Tensor, seed: Tensor) -> TileWeight:
        def share(rows: slice, cols: slice) -> Tensor:
            return sample_random.to_beta(sample_random.pair(numbers[rows], numbers[cols], seed), *self.beta)

        return share


class Around(NamedTuple):
    """Samples below and above each anchor's target, whose mixture has it: [b, s], and what they stand for."""

    below: Tensor  # global numbers
    above: Tensor
    share: Tensor  # of the one below, in (0, 1)
    real: Tensor  # bool, whether there is such a pair
    times: Tensor  # [b] how many pairs each of them stands for, at least 1


def magnified(distance: Tensor, magnify: Magnified) -> Tensor:
    """Return log w of a negative whose target is at a distance."""
    if magnify == "none":
        return torch.zeros_like(distance)
    return (distance if magnify == "l1" else distance.square()).log1p()


def mixed_negatives(
    x: Tensor,
    other: Tensor,
    y: Tensor,
    every_y: Tensor,
    share: TileWeight,
    tau: float,
    magnify: Magnified,
    tolerance: float,
    unit: bool,
) -> Tensor:
    """Return the log-sum-exp of each anchor x [n, D] over mixes of its own partner in `other` [n, D] with all others.

    `share` returns c_ik; y [n] are targets, every_y [B] those of all ranks, NaN where they are missing. [n], -inf where
    there is none. Gradient for x alone.
    """
    other = other.detach()
    own = (x * other).sum(1)

    def logit(s: Tensor, cosine: Tensor, own: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        mixed = c * own + (1 - c) * s
        if unit:
            mixed = mixed / _length(c, cosine)
        return mixed / tau + magnified((1 - c) * (a - b).abs().nan_to_num(0.0), magnify)

    def equal(rows: slice, cols: slice) -> Tensor:
        return ~((every_y[rows, None] - every_y[cols]).abs() > tolerance)  # so is what has no target

    products = [(x, other), (other, other)]
    return joint_lse(products, logit, rows=[own, y], cols=[y], pairs=[share], exclude=equal).row


def surrounding(y: Tensor, index: Tensor, every_y: Tensor, numbers: Tensor, seed: Tensor, how: SupReMix) -> Around:
    """Return pairs around each anchor's target: all of them where they are few, else draws that belong to the anchor.

    y and index [b] are this rank's targets and sample numbers, every_y and numbers [B] those of all ranks.
    """
    order = numbers.argsort(stable=True)
    order = order[every_y[order].argsort(stable=True)]  # by target, equal ones by number; NaN comes last
    line = every_y[order][: int(every_y.isfinite().sum())]
    window = how.window or torch.inf
    first, last = torch.searchsorted(line, y - window, right=True), torch.searchsorted(line, y + window)
    below = (torch.searchsorted(line, y - how.tolerance) - first).clamp_min(0)
    start = torch.searchsorted(line, y + how.tolerance, right=True)
    above = (last - start).clamp_min(0)
    count = torch.where(y.isfinite(), below * above, 0)
    slots = torch.arange(how.max_pos, device=y.device)
    drawn = (sample_random.uniform(index, seed, how.max_pos) * count[:, None]).long()
    place = torch.where(count[:, None] > how.max_pos, drawn, slots)
    real = slots < count[:, None]
    width = above.clamp_min(1)[:, None]
    spots = first[:, None] + place // width, start[:, None] + place % width
    j, k = (order[torch.where(real, spot, 0)] for spot in spots)
    low, high = every_y[j], every_y[k]
    share = torch.where(real, (high - y[:, None]) / (high - low), 0.5)
    return Around(j, k, share, real, (count / max(1, how.max_pos)).clamp_min(1).to(y.dtype))


def ordinal(x: Tensor, other: Tensor, rest: Tensor, around: Around, tau: float, unit: bool) -> Tensor:
    """Return L_i of each anchor x [n, D]: [n]. `rest` is the log-sum-exp over all but P_i."""
    every = parallel.gather(other.detach())
    c = around.share
    mixed = c * chosen(x, every, around.below) + (1 - c) * chosen(x, every, around.above)
    if unit:
        mixed = mixed / _length(c, _cosines(every, around))
    mixed = mixed / tau
    own = (x * other).sum(1) / tau
    logits = torch.where(around.real, mixed + around.times.log()[:, None], -torch.inf)
    if logits.shape[1]:
        some = around.real.any(1)
        lse = torch.where(some[:, None], logits, 0.0).logsumexp(1)
        rest = merge(rest, torch.where(some, lse, -torch.inf))
    total = own + around.times * torch.where(around.real, mixed, 0.0).sum(1)
    count = 1 + around.times * around.real.sum(1)
    return own - total / count - F.logsigmoid(own - rest)


def _cosines(every: Tensor, around: Around) -> Tensor:
    """Return <y_j, y_k> of each pair, [b, s], without [b, s, D]."""
    found = torch.empty_like(around.share)
    for slot, (j, k) in enumerate(zip(around.below.T, around.above.T)):
        found[:, slot] = (every[j] * every[k]).sum(1)
    return found


def _length(share: Tensor, cosine: Tensor) -> Tensor:
    """Return |share p + (1 - share) q| of unit vectors, without gradient."""
    squared = share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * cosine.detach()
    return squared.clamp_min(1e-12).sqrt()
