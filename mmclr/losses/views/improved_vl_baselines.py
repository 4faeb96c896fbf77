"""Strong baselines for small image-text data: more views of both sides, and self-supervised terms between them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.errors import UserError
from mmclr.heads.ema_copy import Follower
from mmclr.heads.mlp import MLP
from mmclr.losses.negatives import not_negatives
from mmclr.losses.objective import Facts, Objective
from mmclr.losses.pairs.clip import Clip
from mmclr.losses.sinkhorn import sinkhorn

MAX_SCALE = 100.0


class CL2L(Clip, key="cl2l"):
    """Contrast the pair as it is, and apart from it, through heads, its strongly changed views and forms.

    Fini et al., Improved baselines for vision-language pre-training (CLIP-rocket), TMLR 2023, arXiv 2305.08675. With
    h = unit(head(view)), a scale s_h of their own and A = (V + T) / 2:
    L = (clip(image, text, s) + A * mean_{a,b} clip_smoothed(h_image_a, h_text_b, s_h)) / (1 + A).
    Wants data.views and data.text_views (2 each in the paper), weak edits of the plain pair, and no flip.
    Reduces to: clip, where views equal the pair, hidden is 0, s_h is s and label_smoothing 0.
    Differs from the paper: heads read the embedding, not the tower's feature; edits know no synonyms; both sides of
    every product get their gradient (in its code columns of other ranks are constants); duplicates are masked.
    """

    label_smoothing: float = 0.1  # share of the views' target that goes evenly to all that are told apart, 0 to 1
    hidden: int = 8  # units of the heads' two hidden layers, as a multiple of D; 0: no heads
    view_scale: float = 10.0  # s_h at the start, learnt, at most 100

    def setup(self, facts: Facts) -> None:
        self.image_head, self.text_head = (_projector(facts.width, self.hidden) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.view_scale)))

    def forward(  # type: ignore[override]
        self,
        image: Tensor,
        text: Tensor,
        views: Tensor,
        text_views: Tensor,
        scale: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        of_pair = self._contrast(image, text, scale, same, weights, 0.0)
        images, texts = _heads(self.image_head, views, weights), _heads(self.text_head, text_views, weights)
        s, smoothing = self.log_scale.exp().clamp(max=MAX_SCALE), self.label_smoothing
        each = [self._contrast(x, y, s, same, weights, smoothing) for x in images.unbind(1) for y in texts.unbind(1)]
        views_per_side = (images.shape[1] + texts.shape[1]) / 2
        of_views = torch.stack(each).mean() if each else 0.0
        return (of_pair + views_per_side * of_views) / (1 + views_per_side)


class SwALIP(Objective, key="swalip", cost="dense"):
    """Let a view's similarities to the batch's captions be told from those of the other view, balanced, and back.

    Fini et al., Improved baselines for vision-language pre-training, TMLR 2023, arXiv 2305.08675; SwAV, Caron et al.,
    NeurIPS 2020. With M_ab = h_image_a h_text_b^T over the global batch and Q = sinkhorn(M) without gradient:
    L = 1/4 sum_{a,b} CE(Q_{1-a,1-b}, softmax(s_h M_ab)), averaged with the same of M^T, whose rows are captions.
    Its weight in the paper is 0.2, beside cl2l without label smoothing. Wants data.views and data.text_views of 2.
    Reduces to: the entropy of Q, where s_h M - log Q is constant along rows.
    Differs from the paper: heads and scale are its own, not shared with cl2l.
    """

    hidden: int = 8  # units of the heads' two hidden layers, as a multiple of D; 0: no heads
    view_scale: float = 10.0  # s_h at the start, learnt, at most 100
    eps: float = 0.05  # entropy of the assignments: sharper when smaller, > 0
    iterations: int = 3  # of Sinkhorn

    def setup(self, facts: Facts) -> None:
        self.image_head, self.text_head = (_projector(facts.width, self.hidden) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.view_scale)))

    def forward(self, views: Tensor, text_views: Tensor, weights: Tensor) -> Tensor:
        if views.shape[1] != 2 or text_views.shape[1] != 2:
            raise UserError("swalip exchanges two views for each other: set data.views: 2 and data.text_views: 2")
        images, texts = _heads(self.image_head, views, weights), _heads(self.text_head, text_views, weights)
        return (self._swap(images, texts, weights) + self._swap(texts, images, weights)) / 8

    def _swap(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the sum over pairs of views of the cross-entropies of x's rows; x, y [b, 2, D]."""
        products = torch.einsum("iad,jbd->abij", x, parallel.gather(y))
        logs = (self.log_scale.exp().clamp(max=MAX_SCALE) * products).log_softmax(-1)
        targets = [[sinkhorn(m, self.eps, self.iterations, weights) for m in row] for row in products.detach()]
        swapped = torch.stack([torch.stack(row) for row in targets]).flip(0, 1)
        return parallel.mean(-(swapped * logs).sum(-1).sum((0, 1)), weights)


class BarLIP(Objective, key="barlip", cost="local"):
    """Make the features of an image's and its caption's heads the same, and each unlike the others.

    Fini et al., Improved baselines for vision-language pre-training, TMLR 2023, arXiv 2305.08675; Barlow Twins,
    Zbontar et al., ICML 2021. With heads y that end in a BatchNorm and C = mean_i y_image_i y_text_i^T:
    L = c * ( sum_k (C_kk - 1)^2 + off_weight * sum_{k != l} C_kl^2 ), mean over the pair and all V T pairs of views.
    Reduces to: 0, where heads agree and their features are uncorrelated.
    Differs from the paper: heads read the embedding, not the tower's feature; C has its gradient from all ranks.
    """

    hidden: int = 6  # units of the heads' two hidden layers, as a multiple of D
    out: int = 16  # features of the heads, as a multiple of D
    c: float = 0.025  # weight of all, > 0
    off_weight: float = 0.005  # weight of the correlations between features, >= 0

    def setup(self, facts: Facts) -> None:
        widths = [facts.width * times for times in (1, self.hidden, self.hidden, self.out)]
        self.image_head, self.text_head = (MLP(widths, last="norm") for _ in range(2))

    def forward(self, image: Tensor, text: Tensor, views: Tensor, text_views: Tensor, weights: Tensor) -> Tensor:
        images = self.image_head(torch.cat([image[:, None], views], 1), weights).unbind(1)
        texts = self.text_head(torch.cat([text[:, None], text_views], 1), weights).unbind(1)
        pairs = [(images[0], texts[0]), *((x, y) for x in images[1:] for y in texts[1:])]
        return torch.stack([self._decorrelate(x, y, weights) for x, y in pairs]).mean()

    def _decorrelate(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        c = parallel.total((x * parallel.shares(weights)[:, None]).T @ y)
        own = c.diagonal()
        return self.c * ((own - 1).square().sum() + self.off_weight * (c.square().sum() - own.square().sum()))


class SiamLIP(Objective, key="siamlip", cost="local"):
    """Predict the head of a caption from that of its image, and the other way, without a gradient to what is predicted.

    Fini et al., Improved baselines for vision-language pre-training, TMLR 2023, arXiv 2305.08675; SimSiam, Chen and
    He, CVPR 2021. With heads y and predictors p = predict(y) of each side, the pair 0 and its views a, b > 0:
    L = sum over (0, 0) and all (a, b) of D(p_image_a, y_text_b) + D(p_text_b, y_image_a), over 2 + 2 V T,
    D(p, y) = 2 - 2 mean_i cos(p_i, constant y_i), 0 to 4.
    Reduces to: 0, where the predictors are right.
    Differs from the paper: heads read the embedding, not the tower's feature.
    """

    hidden: int = 4  # units of the heads' and predictors' hidden layer, as a multiple of D
    out: int = 128  # features of the heads

    def setup(self, facts: Facts) -> None:
        widths = [facts.width, facts.width * self.hidden, self.out]
        self.image_head, self.text_head = (MLP(widths, last="norm") for _ in range(2))
        self.image_predictor, self.text_predictor = (MLP([self.out, widths[1], self.out]) for _ in range(2))

    def forward(self, image: Tensor, text: Tensor, views: Tensor, text_views: Tensor, weights: Tensor) -> Tensor:
        images = self.image_head(torch.cat([image[:, None], views], 1), weights)
        texts = self.text_head(torch.cat([text[:, None], text_views], 1), weights)
        return self._predict(images, texts, images.detach(), texts.detach(), weights)

    def _predict(
        self, images: Tensor, texts: Tensor, image_goals: Tensor, text_goals: Tensor, weights: Tensor
    ) -> Tensor:
        """Return L; all [b, 1 + views, out], the pair first."""
        of_image, of_text = self.image_predictor(images, weights), self.text_predictor(texts, weights)
        cosines = _both_scales(of_image, text_goals) + _both_scales(of_text, image_goals)
        return 2 - 2 * parallel.mean(cosines, weights) / (2 + 2 * (images.shape[1] - 1) * (texts.shape[1] - 1))


class BYOLIP(SiamLIP, key="byolip", cost="local"):
    """Predict the head of a caption, as a slowly following teacher has it, from that of its image, and the other way.

    Fini et al., Improved baselines for vision-language pre-training, TMLR 2023, arXiv 2305.08675; BYOL, Grill et al.,
    NeurIPS 2020. As siamlip, with y from running averages of towers and heads:
    L = sum over (0, 0) and all (a, b) of D(p_image_a, y'_text_b) + D(p_text_b, y'_image_a), over 2 + 2 V T.
    The teacher's momentum is `ema`, constant 0.99 in the paper.
    Reduces to: siamlip, for a momentum of 0.
    Differs from the paper: heads read the embedding, not the tower's feature.
    """

    def setup(self, facts: Facts) -> None:
        super().setup(facts)
        self.image_teacher, self.text_teacher = Follower(self.image_head), Follower(self.text_head)

    def forward(  # type: ignore[override]
        self,
        image: Tensor,
        text: Tensor,
        views: Tensor,
        text_views: Tensor,
        ema_image: Tensor,
        ema_text: Tensor,
        ema_views: Tensor,
        ema_text_views: Tensor,
        weights: Tensor,
    ) -> Tensor:
        images = self.image_head(torch.cat([image[:, None], views], 1), weights)
        texts = self.text_head(torch.cat([text[:, None], text_views], 1), weights)
        image_goals = self.image_teacher(torch.cat([ema_image[:, None], ema_views], 1), weights)
        text_goals = self.text_teacher(torch.cat([ema_text[:, None], ema_text_views], 1), weights)
        return self._predict(images, texts, image_goals, text_goals, weights)


def _projector(width: int, hidden: int) -> nn.Module | None:
    return MLP([width, hidden * width, hidden * width, width]) if hidden else None


def _heads(head: nn.Module | None, x: Tensor, weights: Tensor) -> Tensor:
    """Return what the head makes of views [b, V, D], of unit norm."""
    return x if head is None else F.normalize(head(x, weights), dim=-1)


def _both_scales(p: Tensor, y: Tensor) -> Tensor:
    """Return cos(p_0, y_0) + sum_{a, b > 0} cos(p_a, y_b) of each sample, [b]; p, y [b, 1 + views, out]."""
    p, y = F.normalize(p, dim=-1), F.normalize(y, dim=-1)
    return (p[:, 0] * y[:, 0]).sum(1) + (p[:, 1:].sum(1) * y[:, 1:].sum(1)).sum(1)
