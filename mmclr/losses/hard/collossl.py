"""Captions of several origins: which are right, and how wrong the others are, by their distributions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Either, Mask, Pairs, Where, dual_lse, joint_sum, merge
from mmclr.losses.blank import those_alone
from mmclr.losses.objective import Facts, Objective

WIDTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 100.0)  # variances of the kernels
FLOOR = 1e-4  # of a squared distance


class Collossl(Objective, key="collossl"):
    """Let the source of captions that is nearest to the images be right, and all sources wrong, the near ones more.

    Jain et al., ColloSSL: Collaborative Self-Supervised Learning for Human Activity Recognition, IMWUT 6(1) 2022, arXiv
    2202.00758. With s_ij^c = scale * <image_i, text_j of source c>; d_c = MMD^2 of the images and the captions of
    samples that have c, each less its mean, at least 1e-4, averaged over steps; P the `positives` sources of smallest
    d; w_c = min(1 / d_c, cap * median 1 / d) / their largest; pos_i = log sum_{c in P that i has} exp s_ii^c:
    L_image = mean_i softplus(log sum_c w_c sum_{j != i that has c} exp s_ij^c - pos_i), over i that has one of P,
    L_text = mean_{i, c in P} softplus(log sum_{j != i} exp s_ji^c - s_ii^c), L = (L_image + L_text) / 2.
    MMD^2 = mean k(x, x) + mean k(y, y) - 2 mean k(x, y), k a sum of 12 Gaussians of variance 1e-4 to 100.
    Wants data.text_sources. Captions that are only shuffled among samples are as near: d compares distributions.
    Reduces to: clip, for one source, and captions that differ. What a sample lacks changes nothing.
    Differs from the paper: captions of images in place of devices; +cosine, where its code divides minus the cosine by
    the temperature; all other samples in place of one shuffle; d averaged over steps, without the gap between
    modalities; captions among images; clip's scale in place of 1 / 0.05.
    """

    positives: int = 1  # sources that are right, those of smallest distance, >= 1
    every: int = 50  # steps from one measurement of the distances to the next, >= 1
    momentum: float = 0.99  # of the distances' average, 0 to below 1
    cap: float = 10.0  # how many times the median 1 / d may be, >= 1: a source that is the images' own outweighs all
    centre: bool = True  # take the mean away before; false: distances are mostly the gap between modalities

    def __post_init__(self) -> None:
        if self.positives < 1 or self.every < 1 or self.cap < 1:
            raise ValueError("positives, every and cap are at least 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is 0 to below 1, not {self.momentum}")

    def setup(self, facts: Facts) -> None:
        self.d = nn.Buffer(torch.full((facts.text_sources,), torch.inf, dtype=torch.float64))  # inf: not seen yet
        self.step = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, text_sources: Tensor, has_text: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        found: Tensor = self.d.clone()
        if self.step % self.every == 0:
            now = distances(image.detach(), text_sources.detach(), has_text, self.centre).to(self.d)
            mixed = torch.where(found < torch.inf, self.momentum * found + (1 - self.momentum) * now, now)
            found = torch.where(now < torch.inf, mixed, found)
        self._found = found
        chosen, pull = choose(found, self.positives, self.cap)
        sides = contrast(image, text_sources, has_text, scale, chosen, pull)
        right = has_text & chosen
        of_image = parallel.mean(sides.image, weights * right.any(1))
        return (of_image + parallel.mean(sides.text.flatten(), (weights[:, None] * right).flatten())) / 2

    def after_step(self) -> None:
        self.d.copy_(self._found)
        self.step.add_(1)


class Sides(NamedTuple):
    """Costs of each sample."""

    image: Tensor  # [b] its image among captions; 0 where it has none that is right
    text: Tensor  # [b, S] its caption of each source among images; of no meaning where it has none


def contrast(image: Tensor, sources: Tensor, has: Tensor, scale: Tensor | float, chosen: Tensor, pull: Tensor) -> Sides:
    """Return the costs of images [b, D] and of the captions of S sources [b, S, D], of which samples `has` [b, S].

    chosen [S] says which sources are right; pull [S] weighs the exponentials of their wrong captions.
    """
    every = parallel.gather(has)
    logs = pull.to(image.dtype).log()
    positive = negative = image.new_full((len(image),), -torch.inf)
    of_text = []
    for number in range(has.shape[1]):
        there = has[:, number]
        # where there is no caption the text is an empty one's, or anything
        text = torch.where(there[:, None], sources[:, number], 0.0)
        lse = dual_lse(image, text, scale, exclude=_lacking(every[:, number]))
        negative = merge(negative, lse.row + logs[number])
        positive = merge(positive, torch.where(there & chosen[number], lse.pair, -torch.inf))
        of_text.append(F.softplus(lse.col - lse.pair))
    some = positive > -torch.inf
    of_image = torch.where(some, F.softplus(negative - torch.where(some, positive, 0.0)), 0.0)
    return Sides(of_image, torch.stack(of_text, 1))


def choose(d: Tensor, positives: int, cap: float) -> tuple[Tensor, Tensor]:
    """Return which sources are right, bool [S], and w [S], from squared distances d [S], inf of who has none yet.

    Of equal distances the first comes first.
    """
    seen, near = d < torch.inf, 1 / d
    chosen = torch.zeros_like(seen)
    chosen[d.argsort(stable=True)[:positives]] = True
    if bool(seen.any()):
        near = near.clamp_max(cap * near[seen].median())
        near = near / near.max()
    return chosen & seen, near


@torch.no_grad()
def distances(image: Tensor, sources: Tensor, has: Tensor, centre: bool = True) -> Tensor:
    """Return the squared distance of each source's captions to the images of the same samples, float64 [S].

    image [b, D], sources [b, S, D] and has [b, S] are this rank's rows. inf where no sample has a caption.
    """
    found = []
    for number in range(has.shape[1]):
        with those_alone(has[:, number], image.double(), sources[:, number].double()) as (x, y):
            some = parallel.count(x) > 0
            found.append(mmd(x, y, centre) if some else x.new_tensor(torch.inf))
    return torch.stack(found)


def mmd(x: Tensor, y: Tensor, centre: bool = False) -> Tensor:
    """Return the squared maximum mean discrepancy of x [n, D] and y [m, D] of all ranks, each with itself, too: [].

    At least FLOOR. centre: each less its mean.
    """
    if centre:
        x, y = x - parallel.mean(x), y - parallel.mean(y)
    return (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)).clamp_min(FLOOR)


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    found = joint_sum([(x, y)], _kernels, rows=[x.square().sum(1)], cols=[y.square().sum(1)])
    return parallel.total(found.row.sum()) / (parallel.count(x) * parallel.count(y))


def _kernels(inner: Tensor, of_row: Tensor, of_col: Tensor) -> Tensor:
    squared = (of_row + of_col - 2 * inner).clamp_min(0)
    total = torch.zeros_like(squared)
    for width in WIDTHS:
        total += (squared / (-2 * width)).exp()
    return total


def _lacking(there: Tensor) -> Mask:
    """Return the pairs (i, i), and those of captions that are not `there`, bool [B]."""
    if bool(there.all()):
        return Pairs()
    return Either(Pairs(), Where(lambda rows, cols: ~there[cols].expand(rows.stop - rows.start, -1)))
