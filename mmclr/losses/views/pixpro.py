"""Patches of two crops of an image that show the same place say the same."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.errors import UserError
from mmclr.heads.ema_copy import Follower
from mmclr.heads.mlp import MLP
from mmclr.losses.objective import Facts, Objective


class PixPro(Objective, key="pixpro", cost="local"):
    """Predict each patch of one crop, smoothed over alike patches, as a slow teacher sees the place in another crop.

    Xie et al., Propagate Yourself, CVPR 2021, arXiv 2011.10043. With patches x of a view, x' of the teacher, through
    heads and of unit norm, m_jk = 1 for patches of two views whose centres in the image lie within `near` bins:
    y_j = unit(sum_k max(<x_j, x_k>, 0)^power t(x)_k),  s(1, 2) = sum_jk m_jk <y_j, x'_k> / (sum_jk m_jk + 1e-6):
    L = -2 mean_i [ s(1, 2) + s(2, 1) ], mean over pairs of views. PixContrast: a patch is told from those far from it,
    -log(sum_near exp(<x_j, x'_k> / tau) / sum_all), mean over patches with a near one, then over directions.
    Its weight is 0.25. Wants data.views: 2; gives the image tower a sense of place, texts have no part in it.
    Reduces to: -4, where both crops are one and every patch is unlike all others.
    Differs from the paper: a vision transformer's patches, projected; LayerNorm in heads; means are by image first.
    """

    loss: Literal["propagate", "plain", "contrast"] = "propagate"  # plain: no smoothing; contrast: PixContrast
    near: float = 0.7  # distance of patches that belong together, in diagonals of the larger patch, > 0
    power: float = 2.0  # how much alike patches weigh in the smoothing, > 0
    transform: bool = True  # t is a learnt linear map; false: t(x) = x
    tau: float = 0.3  # temperature of contrast, > 0
    hidden: int = 8  # units of the heads' hidden layer, as a multiple of D; 0: no heads
    out: int = 256  # features of the heads

    def setup(self, facts: Facts) -> None:
        widths = [facts.width, self.hidden * facts.width, self.out]
        self.head = MLP(widths, norm="layer") if self.hidden else nn.Identity()
        self.teacher = Follower(self.head)
        width = self.out if self.hidden else facts.width
        smoothed = self.transform and self.loss == "propagate"
        self.smoothed = nn.Linear(width, width) if smoothed else nn.Identity()

    def forward(self, view_tokens: Tensor, ema_view_tokens: Tensor, view_boxes: Tensor, shares: Tensor) -> Tensor:
        views = range(view_boxes.shape[1])
        if len(views) < 2:
            raise UserError("pixpro compares views with each other: set data.views: 2")
        x, goal = self.head(view_tokens), F.normalize(self.teacher(ema_view_tokens), dim=-1)
        x = F.normalize(x, dim=-1) if self.loss != "propagate" else self._propagate(x)
        centres, bins = _centres(view_boxes, x.shape[2])
        sides = [(a, b) for a in views for b in views if a != b]
        each = [self._agree(x[:, a], goal[:, b], _close(centres, bins, a, b, self.near)) for a, b in sides]
        factor = 1.0 if self.loss == "contrast" else 2.0
        return parallel.total((torch.stack(each).mean(0) * shares).sum()) * factor

    def _propagate(self, x: Tensor) -> Tensor:
        """Return tokens [..., P, width] smoothed over those of their view that are like them, of unit norm."""
        unit = F.normalize(x, dim=-1)
        alike = (unit @ unit.mT).clamp_min(0)
        if self.power < 1:
            alike = alike + 1e-6  # the slope at 0 would be infinite
        return F.normalize(alike.pow(self.power) @ F.normalize(self.smoothed(x), dim=-1), dim=-1)

    def _agree(self, x: Tensor, goal: Tensor, near: Tensor) -> Tensor:
        """Return the loss of each image [b]: tokens x, goal [b, P, width] of two views, near [b, P, P]."""
        cosines = x @ goal.mT
        if self.loss != "contrast":
            return -2 * (cosines * near).sum((1, 2)) / (near.sum((1, 2)) + 1e-6)
        logits = cosines / self.tau
        positive = logits.masked_fill(near == 0, -torch.inf).logsumexp(2)
        has = near.any(2)
        each = torch.where(has, logits.logsumexp(2) - torch.where(has, positive, 0.0), 0.0)
        return each.sum(1) / has.sum(1).clamp_min(1)


def _centres(boxes: Tensor, patches: int) -> tuple[Tensor, Tensor]:
    """Return the centres [b, V, P, 2] of the patches of views in shares of the image, and their sizes [b, V, 2]."""
    grid = math.isqrt(patches)
    corner, bins = boxes[..., :2], (boxes[..., 2:] - boxes[..., :2]) / grid  # negative across where it is mirrored
    place = torch.arange(grid, device=boxes.device, dtype=boxes.dtype) + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    return corner[..., None, :] + torch.stack([x, y], -1).flatten(0, 1) * bins[..., None, :], bins


def _close(centres: Tensor, bins: Tensor, a: int, b: int, near: float) -> Tensor:
    """Return 1 where a patch of view a and one of view b show the same place, else 0: [b, P, P]."""
    diagonal = bins.norm(dim=-1)
    limit = near * torch.maximum(diagonal[:, a], diagonal[:, b])
    distance = torch.cdist(centres[:, a], centres[:, b], compute_mode="donot_use_mm_for_euclid_dist")
    return (distance < limit[:, None, None]).to(centres.dtype)
