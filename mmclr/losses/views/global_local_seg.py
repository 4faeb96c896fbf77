"""Groups of samples that are alike by what is known of them: never pushed apart, or drawn together."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Equal, dual_lse, joint_sum
from mmclr.losses.hints import MANY, hint
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class GroupClip(Objective, key="group_clip"):
    """Never push samples of one group apart (a slice's place, a template), or let all of them be positives.

    Chaitanya et al., Contrastive Learning of Global and Local Features for Medical Image Segmentation with Limited
    Annotations, NeurIPS 2020, arXiv 2006.10511, its global loss. With s_ij = scale * <image_i, text_j> and N_i = {j:
    group_j != group_i}, where what has no group is equal to itself alone:
    L_i = mean_{p in P_i} softplus(log sum_{j in N_i} exp s_ij - s_ip), with P_i = {i} (exclude, its G^D-) or P_i = {j:
    group_j = group_i} (attract, its G^D; no positive stands in another's denominator),
    L = mean_i L_i of images, halved with the same of captions.
    Reduces to: clip, where all groups differ; 0 in mode exclude, where all are one.
    Differs from the paper: images and captions in place of two views; all positives of the batch and a mean, where its
    code takes one of each other volume and a sum. Equal images and captions of other groups are no negatives either.
    """

    mode: Literal["exclude", "attract"] = "exclude"  # samples of one group are no negatives, or positives
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        group: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id, group)
        row, col, pair, *_ = dual_lse(image, text, scale, exclude=same)
        if self.mode == "exclude":
            each = -F.logsigmoid(pair - row) - F.logsigmoid(pair - col)
        else:
            of_group = Equal(group)
            if of_group.only_pairs and parallel.count(group) >= MANY:
                hint(
                    "group_clip: no two samples of a batch are of one group, so nothing is drawn together: number "
                    "groups with mmclr data label, set data.fields.group to the column and data.order={use: "
                    "siblings, column: NAME}"
                )
            each = to_all(image, text, scale, row, of_group) + to_all(text, image, scale, col, of_group)
        return parallel.mean(each, weights) / 2


def to_all(x: Tensor, y: Tensor, scale: Tensor | float, negatives: Tensor, positives: Equal) -> Tensor:
    """Return the mean over the positives p of a row of softplus(negatives - scale <x, y_p>): [b].

    x and y [b, D] and negatives [b], the log-sum-exp of each row's, are this rank's; the y are those of all ranks.
    """
    found = joint_sum([(scale * x, y)], lambda s, lse: F.softplus(lse - s), rows=[negatives], only=positives)
    return found.row / found.row_count
