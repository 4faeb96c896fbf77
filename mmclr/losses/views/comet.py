"""Levels on which samples agree: a pair, the group that it is of, and where the group comes from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import dual_lse, merge
from mmclr.losses.hints import MANY, hint
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective
from mmclr.losses.targets import count_of_equals, mean_of_equals


class Comet(Objective, key="comet"):
    """Tell pairs apart, and draw an image also to captions of its group (a patient, a product) and of its origin.

    Wang et al., Contrast Everything: A Hierarchical Contrastive Framework for Medical Time-Series (COMET), NeurIPS
    2023, arXiv 2310.14017. With s_ij = scale * <image_i, text_j>, R_i = log sum_j exp s_ij and C_j = log sum_i exp s_ij
    over all, and N_k = {(i, j): i != j, k_i = k_j}, where what has no k is equal to nothing:
    L_k = mean over N_k of (R_i + C_j) / 2 - s_ij, and 0 where N_k is empty,
    L = pair * L_clip + by_group * L_group + by_origin * L_origin; the group is no negative in L_clip.
    Wants data.order: {use: siblings, column: NAME}, or few batches have two of one group.
    Reduces to: pair * clip, where all groups and origins differ, or for both levels 0 without exclude_siblings.
    Differs from the paper: images and captions in place of two views; R and C for every pair, where its code has R for
    i < j and C for i > j, and so depends on the order (`paper_split`); clip's scale in place of 10; weights that are
    weights, where its code only switches the levels off by them; the level within a sample is left out.
    """

    pair: float = 0.8  # weight of pairs, >= 0
    by_group: float = 0.1  # weight of what samples of one group have in common, >= 0
    by_origin: float = 0.05  # weight of what samples of one origin have in common, >= 0; small: it teaches the origin
    exclude_siblings: bool = True  # samples of one group are no negatives of each other among pairs
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other among pairs

    def __post_init__(self) -> None:
        for name in ("pair", "by_group", "by_origin"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is at least 0, not {getattr(self, name)}")

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        group: Tensor,
        origin: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
    ) -> Tensor:
        siblings = (group,) if self.exclude_siblings else ()
        same = not_negatives(self.duplicates, image_id, caption_id, *siblings)
        lse = dual_lse(image, text, scale, exclude=same, split=True)
        each = F.logsigmoid(lse.pair - lse.row) + F.logsigmoid(lse.pair - lse.col)
        loss = -self.pair * parallel.mean(each, weights) / 2
        ends = merge(lse.row, lse.excluded_row) + merge(lse.col, lse.excluded_col)
        total = parallel.count(group)
        for share, ids, say in ((self.by_group, group, _all_apart), (self.by_origin, origin, _all_one)):
            if share:
                members = count_of_equals(ids)
                say(members, total)
                loss = loss + share * agreement(image, text, scale, ids, members, ends, weights)
        return loss


def agreement(
    u: Tensor, v: Tensor, scale: Tensor | float, ids: Tensor, members: Tensor, ends: Tensor, weights: Tensor
) -> Tensor:
    """Return the mean over ordered pairs i != j of equal ids of (R_i + C_j) / 2 - scale <u_i, v_j>: [], 0 without any.

    u and v [b, D], ids, members (how many are equal to each, it too) and ends = R + C [b] are this rank's rows. The
    mean is linear in s, so sums of equals are enough: a sample counts by its weight [b] once for each of its siblings.
    """
    siblings = (members - 1).to(u.dtype)
    of_v, of_u = mean_of_equals(torch.cat([v, u], 1), ids).chunk(2, 1)
    near = members * ((u * of_v).sum(1) + (v * of_u).sum(1)) - 2 * (u * v).sum(1)  # of the others, not of itself
    return parallel.mean(ends - scale * near / siblings.clamp_min(1), weights * siblings) / 2


def paper_split(s: Tensor, ids: Tensor) -> Tensor:
    """Return the paper's loss of logits s [B, B]: R_i - s_ij where i < j, C_j - s_ij where i > j, each a mean, halved.

    Over pairs of equal ids int64 [B], -1 for none; 0 without any. It depends on the order of samples.
    """
    equal = (ids[:, None] == ids) & (ids >= 0)
    upper, lower = equal.triu(1), equal.tril(-1)
    if not bool(upper.any()):
        return s.sum() * 0
    of_rows, of_cols = s.logsumexp(1, keepdim=True) - s, s.logsumexp(0, keepdim=True) - s
    return (of_rows[upper].mean() + of_cols[lower].mean()) / 2


def _all_apart(members: Tensor, total: int) -> None:
    if total >= MANY and not parallel.agree(bool((members > 1).any())):
        hint(
            f"comet: no two of {total} samples are of one group, so only pairs and origins train: number groups with "
            "mmclr data label, set data.fields.group to the column and data.order={use: siblings, column: NAME}"
        )


def _all_one(members: Tensor, total: int) -> None:
    if total >= MANY and not parallel.agree(bool((members < total).any())):
        hint(
            f"comet: all {total} samples are of one origin, which draws all of them together: set by_origin to 0, or "
            "data.fields.origin to what tells several (source, with several in data.train)"
        )
