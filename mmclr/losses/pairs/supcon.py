"""Contrast with several positives per anchor: equal captions, or equal classes."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Equal, Pairs, dual_lse
from mmclr.losses.objective import Objective
from mmclr.losses.targets import mean_of_equals


class SupCon(Objective, key="supcon"):
    """Let every pair with the same caption be positive, in both directions of the image-text matrix.

    Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, arXiv 2004.11362. With s_ij = scale *
    <image_i, text_j>, P_i = {j: caption_j = caption_i} and Z_i = sum_j exp s_ij over all j:
    mean: L_i = -1/|P_i| sum_{j in P_i} log(exp s_ij / Z_i), their L_out;
    sum: L_i = -log(sum_{j in P_i} exp s_ij / Z_i), their L_in without its constant log |P_i| (MIL-NCE, Miech et
    al., CVPR 2020, arXiv 1912.06430).
    L = mean_i of both directions, halved. Reduces to: clip, where all captions differ.
    Differs from the paper: positives across modalities, not among views of images.
    """

    positives: Literal["mean", "sum"] = "mean"  # all positives must be close, or their sum (one is enough)
    keep_mib: int = 16  # memory for tiles that the backward need not make again, MiB

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, caption_id: Tensor, weights: Tensor) -> Tensor:
        return self._contrast(image, text, scale, caption_id, weights)

    def _contrast(self, image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        same, keep = Equal(ids), self.keep_mib << 20
        if same.only_pairs:
            lse = dual_lse(image, text, scale, exclude=Pairs(), keep_bytes=keep)
            return -parallel.mean(F.logsigmoid(lse.pair - lse.row) + F.logsigmoid(lse.pair - lse.col), weights) / 2
        lse = dual_lse(image, text, scale, exclude=same, split=True, keep_bytes=keep)
        each = -F.logsigmoid(lse.excluded_row - lse.row) - F.logsigmoid(lse.excluded_col - lse.col)
        if self.positives == "mean":
            each = each + lse.excluded_row + lse.excluded_col - scale * self._mean_positive(image, text, ids)
        return parallel.mean(each, weights) / 2

    def _mean_positive(self, image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
        """Return the mean cosine of an image to its positives plus that of a caption to its own, [b]."""
        of_text, of_image = mean_of_equals(torch.cat([text, image], 1), ids).chunk(2, 1)
        return (image * of_text + text * of_image).sum(1)


class SupConLabel(SupCon, key="supcon_label"):
    """Let every pair with the same class label be positive, in both directions of the image-text matrix.

    Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, arXiv 2004.11362. As supcon, with
    P_i = {j: label_j = label_i}: L_i = -1/|P_i| sum_{j in P_i} log(exp s_ij / sum_k exp s_ik).
    Reduces to: clip, where all labels differ.
    Differs from the paper: positives across modalities, not among views of images.
    """

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        return self._contrast(image, text, scale, label, weights)
