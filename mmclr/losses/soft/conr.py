"""Whom to push apart: samples that are alike to the model, and are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import TileWeight, Where, dual_lse, joint_lse, weighted
from mmclr.losses.blank import those_alone
from mmclr.losses.hints import MANY, hint
from mmclr.losses.objective import Facts, Objective

BINS = 1 << 12  # of the histogram of distances in which a quantile is found


class Relation(NamedTuple):
    """Relations to an anchor, as constant tiles: functions of (rows, columns), slices of global numbers."""

    near: TileWeight  # bool [h, w], the positives
    push: TileWeight  # log S_ij of the negatives, -inf elsewhere [h, w]


class ConR(Objective, key="conr"):
    """Push apart captions that the model finds alike and a frozen model does not.

    Keramati et al., ConR: Contrastive Regularizer for Deep Imbalanced Regression, ICLR 2024, arXiv 2309.06651. With
    s_ij = <image_i, text_j> / tau, frozen captions t, d_ij = 1 - <t_i, t_j>, P_i = {j: d_ij <= window or j = i}, N_i =
    {j: d_ij > window, 1 - <text_i, text_j> <= window}, both without gradient, the same of images and of captions:
    L_i = log [ sum_{P_i} exp s_ij + sum_{N_i} exp(e d_ij + s_ij) ] - mean_{P_i} s_ij, and 0 where N_i is empty;
    L = mean over all i of L_i and of the same with rows and columns exchanged, halved.
    Reduces to: clip at temperature tau, for captions that differ, which the model finds all alike, and e 0.
    Differs from the paper: distances of captions in place of labels; a regulariser beside clip. No exp(0) for others
    than P and N, as its code has; no mean where N is empty. Without `teacher` the model is its own, and N is empty.
    """

    window: float = 0.25  # w, distance up to which captions are alike, above 0 to 2
    quantile: float = 0.0  # share of the batch's pairs that are alike by the frozen model, in place of window; 0: none
    e: float = 1.0  # how much more a negative is pushed the farther it should be, >= 0
    tau: float = 0.07  # temperature

    def __post_init__(self) -> None:
        _check(self.window, self.quantile, self.tau)

    def forward(self, image: Tensor, text: Tensor, frozen_text: Tensor, weights: Tensor) -> Tensor:
        if torch.equal(frozen_text, text):
            hint(
                "conr: the frozen captions are the model's own, so no two of them are wrongly alike and the loss is 0: "
                "set teacher to a model folder"
            )
        truth, seen = _cosine_distance(frozen_text.detach()), _cosine_distance(text.detach())
        window = self.window if not self.quantile else distance_quantile(truth, len(text), self.quantile, 2.0)
        relation = relate(truth, seen, window, lambda d: self.e * d, own=True)
        row, col = contrast(image, text, self.tau, relation)
        return parallel.mean(row + col, weights) / 2


class ConRTarget(Objective, key="conr_target"):
    """Push apart images for which a regression tells nearly the same number, and whose numbers differ.

    Keramati et al., ConR: Contrastive Regularizer for Deep Imbalanced Regression, ICLR 2024, arXiv 2309.06651. With
    s_ij = <image_i, image_j> / tau, targets y, a linear p(image), d_ij = |y_i - y_j|, P_i = {j != i: d_ij <= window},
    N_i = {j: d_ij > window, |p_i - p_j| <= window}, both without gradient, S_ij = eta_i exp(e d_ij):
    L_i = log [ sum_{P_i} exp s_ij + sum_{N_i} S_ij exp s_ij ] - mean_{P_i} s_ij, and 0 where P_i or N_i is empty;
    L = mean_i L_i + regress * mean_i |p_i - y_i| / sd, over samples with a target; sd that of all targets so far.
    Reduces to: a linear regression, for a window that holds all.
    Differs from the paper: one view of an image; eta counts once, in S. It is 1, or with `rarity: inverse` the inverse
    of 1 + |P_i|, divided by the batch's mean of it. p is read in units of sd. No exp(0) for others than P and N.
    """

    window: float = 1.0  # w, difference up to which targets are alike, above 0
    quantile: float = 0.0  # share of the batch's pairs whose targets are alike, in place of window; 0: none
    e: float = 0.01  # how much more a negative is pushed per unit of the target, >= 0
    tau: float = 0.07  # temperature
    rarity: Literal["none", "inverse"] = "none"  # whether anchors with rare targets push more
    regress: float = 1.0  # weight of the regression, >= 0

    def __post_init__(self) -> None:
        _check(self.window, self.quantile, self.tau)

    def setup(self, facts: Facts) -> None:
        self.told = nn.Linear(facts.width, 1)
        self.moments = nn.Buffer(torch.zeros(3, dtype=torch.float64))  # of all targets: number, sum, sum of squares

    def forward(self, image: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        with those_alone(target.isfinite(), image, target, weights) as (x, y, w):
            self._found = self._taken_in(y.double())
            number, total, squares = self._found
            mean = total / number.clamp_min(1)
            sd = (squares / number.clamp_min(1) - mean**2).clamp_min(0).sqrt()
            sd = torch.where(sd > 1e-6 * mean.abs(), sd, 1.0)
            scaled = ((y - mean) / sd).to(x)
            p = self.told(x)[:, 0]
            loss = self.regress * (p - scaled).abs()
            return parallel.mean(loss + self._contrast(x, y.detach(), (p.detach() * sd + mean).to(x)), w)

    def _contrast(self, x: Tensor, y: Tensor, p: Tensor) -> Tensor:
        every = parallel.gather(y)
        truth, seen = _difference(every), _difference(parallel.gather(p))
        window = self.window
        if self.quantile and len(every):
            window = distance_quantile(truth, len(y), self.quantile, float(every.max() - every.min()))
        alike = neighbours(y, every, window)
        if len(every) >= MANY and not parallel.agree(bool((alike > 1).any())):
            hint(
                f"conr_target: no two of {len(every)} targets differ by {window:g} or less, so nothing is alike and "
                "only the regression trains: set window in units of the target, or quantile to a share of pairs"
            )
        eta = None
        if self.rarity == "inverse":
            eta = 1 / alike
            eta = eta / parallel.mean(eta)
        relation = relate(truth, seen, window, lambda d: self.e * d, own=False)
        return contrast(x, x, self.tau, relation, eta)[0]

    @torch.no_grad()
    def _taken_in(self, y: Tensor) -> Tensor:
        """Return the moments with this batch taken in."""
        now = torch.stack([torch.ones_like(y), y, y.square()], 1).sum(0)
        return self.moments.to(now) + parallel.total(now)

    def after_step(self) -> None:
        self.moments.copy_(self._found)


def relate(truth: TileWeight, seen: TileWeight, window: float, push: Callable[[Tensor], Tensor], own: bool) -> Relation:
    """Return who is near in truth, and who only seems so; push(distance) is log S of those.

    `truth` and `seen` return distances [h, w]. With `own` a sample belongs to its own positives, else to nobody's.
    """

    def near(rows: slice, cols: slice) -> Tensor:
        return _own(truth(rows, cols) <= window, rows, cols, own)

    def pushed(rows: slice, cols: slice) -> Tensor:
        distance = truth(rows, cols)
        confused = _own((distance > window) & (seen(rows, cols) <= window), rows, cols, False)
        return torch.where(confused, push(distance), -torch.inf)

    return Relation(near, pushed)


def contrast(x: Tensor, y: Tensor, tau: float, relation: Relation, eta: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return L_i of the rows x [n, D] against all columns y [m, D], [n], and of the columns against all rows, [m].

    An anchor without positives, or without negatives, has 0. eta [n] multiplies what the rows' negatives weigh.
    """
    pull = dual_lse(x, y, 1 / tau, exclude=Where(lambda rows, cols: ~relation.near(rows, cols)))
    push = joint_lse([(x, y)], lambda s, log: s / tau + log, pairs=[relation.push])
    mean = weighted(x, y, relation.near, 1 / tau)
    of_row = push.row if eta is None else push.row + eta.log()
    return (
        _anchor(pull.row, of_row, mean.row, mean.row_total),
        _anchor(pull.col, push.col, mean.col, mean.col_total),
    )


def _anchor(pull: Tensor, push: Tensor, total: Tensor, count: Tensor) -> Tensor:
    some = (count > 0) & (push > -torch.inf)
    pull, push = (torch.where(some, lse, 0.0) for lse in (pull, push))
    return torch.where(some, F.softplus(push - pull) + pull - total / count.clamp_min(1), 0.0)


def neighbours(y: Tensor, every: Tensor, window: float) -> Tensor:
    """Return how many of the targets [B] are within the window of each target [b], itself one of them: [b]."""
    order = every.sort().values
    members = torch.searchsorted(order, y + window, right=True) - torch.searchsorted(order, y - window)
    return members.to(y.dtype)


def distance_quantile(distance: TileWeight, rows: int, share: float, most: float) -> float:
    """Return a distance that about this share of all pairs does not exceed, in steps of most / BINS.

    `rows` is this rank's number of samples, `most` the largest distance. A sample with itself is a pair, too. All ranks
    must ask.
    """
    held = parallel.rows_of(rows)
    counts: Tensor | None = None
    for row in range(0, rows, 512):
        at = slice(held.first + row, held.first + min(row + 512, rows))
        for col in range(0, held.total, 2048):
            tile = distance(at, slice(col, min(col + 2048, held.total)))
            # rounding takes a sample's distance to itself below 0, where histc would not count it
            found = torch.histc(tile.float().clamp(0, most), BINS, 0, max(most, 1e-30)).double()
            counts = found if counts is None else counts + found
    counts = parallel.total(torch.zeros(BINS, dtype=torch.float64) if counts is None else counts.cpu())
    below = counts.cumsum(0) < share * counts.sum()
    return most * (int(below.sum()) + 1) / BINS


def _cosine_distance(x: Tensor) -> TileWeight:
    every = parallel.gather(x)
    return lambda rows, cols: 1 - every[rows] @ every[cols].T


def _difference(every: Tensor) -> TileWeight:
    return lambda rows, cols: (every[rows, None] - every[cols]).abs()


def _own(tile: Tensor, rows: slice, cols: slice, value: bool) -> Tensor:
    """Set the pairs (i, i) of a tile."""
    if rows.start < cols.stop and cols.start < rows.stop:
        tile.diagonal(rows.start - cols.start).fill_(value)
    return tile


def _check(window: float, quantile: float, tau: float) -> None:
    if window <= 0 or tau <= 0:
        raise ValueError(f"window and tau are above 0, not {window} and {tau}")
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile is a share of all pairs, 0 to below 1, not {quantile}")
