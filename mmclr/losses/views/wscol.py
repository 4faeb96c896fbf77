"""Weak views teach strong ones: what a slow teacher makes of the plain image, the model shall see in changed ones."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.heads.mlp import MLP
from mmclr.losses.algebra import Either, Mask, Pairs, TileWeight, Where, dual_lse, expected, weighted
from mmclr.losses.objective import Facts, Objective
from mmclr.losses.targets import mean_of_equals

FOUNDED = 16  # steps at least over which the prototypes are founded


class WSCoL(Objective, key="wscol"):
    """Let strong views choose captions as the teacher does by the weak one, and keep views of one cluster together.

    Yang et al., Rethinking Weak-to-Strong Augmentation in Source-Free Domain Adaptive Object Detection, 2024, arXiv
    2410.05557. With t = ema_image, p_ij = softmax_j(<t_i, text_j> / teacher_tau) without gradient, strong views s:
    L = kd_weight * mean_i KL(p_i, softmax_j(scale <s_i, text_j>)) + con_weight * supcon(unit(h(s)), labels, tau).
    A label is the prototype next to unit(h(t_i)), or "none" where its softmax is below delta; if the mean entropy of p
    exceeds eta log B, samples without label are left out. Prototypes run after the mean of what is next to them.
    Reduces to: 0 without gradient, where s = t, the temperatures are equal and con_weight is 0.
    Differs from the paper: samples and captions instead of boxes and classes; prototypes begin as the first samples.
    """

    kd_weight: float = 1.0  # of the teacher's choices, >= 0
    con_weight: float = 0.5  # of the clusters, >= 0
    teacher_tau: float = 0.04  # temperature of the teacher's choices, > 0
    tau: float = 0.07  # temperature between views, > 0
    prototypes: int = 4096  # K
    prototype_tau: float = 0.1  # temperature of a label's confidence, > 0
    prototype_rate: float = 0.1  # share that a step's mean has of a prototype, 0 to 1
    delta: float = 0.5  # least confidence of a label, 0: all have one
    eta: float = 0.8  # uncertainty of the teacher above which only labelled samples are contrasted, 0 to 1
    hidden: int = 1  # units of h's hidden layer, as a multiple of D; 0: h is the identity
    self_positive: bool = False  # the published code: a view is its own positive too, and half the loss

    def setup(self, facts: Facts) -> None:
        widths = [facts.width, self.hidden * facts.width, facts.width]
        self.h = MLP(widths, norm="layer") if self.hidden else nn.Identity()
        self.means = nn.Buffer(torch.zeros(self.prototypes, facts.width))
        self.founded = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def forward(self, views: Tensor, text: Tensor, scale: Tensor, ema_image: Tensor, weights: Tensor) -> Tensor:
        choices, entropy = self._choices(ema_image.detach(), text.detach())
        of_teacher = torch.stack([self._follow(x, text, scale, choices, entropy) for x in views.unbind(1)], 1).mean(1)
        z = F.normalize(self.h(ema_image), dim=1).detach()
        nearest, confidence = self._nearest(z)
        self._found = z, nearest, weights
        samples = parallel.count(text)
        uncertain = parallel.mean(entropy, weights) > self.eta * math.log(max(1, samples))
        none = confidence < self.delta
        left_out = none & (uncertain | (self.founded == 0))
        labels = nearest.masked_fill(none, self.prototypes)
        together = self._contrast(F.normalize(self.h(views), dim=-1), labels, left_out, weights)
        return self.kd_weight * parallel.mean(of_teacher, weights) + self.con_weight * together

    # What the teacher chooses

    @torch.no_grad()
    def _choices(self, t: Tensor, text: Tensor) -> tuple[TileWeight, Tensor]:
        """Return the teacher's p as a function of tiles, and the entropy of each of its rows [b]."""
        lse = dual_lse(t, text, 1 / self.teacher_tau).row
        entropy = lse - expected(t, text, 1 / self.teacher_tau).row / self.teacher_tau
        every_t, every_text, every_lse = parallel.gather(t), parallel.gather(text), parallel.gather(lse)

        def p(rows: slice, cols: slice) -> Tensor:
            return (every_t[rows] @ every_text[cols].T / self.teacher_tau - every_lse[rows, None]).exp()

        return p, entropy

    def _follow(self, x: Tensor, text: Tensor, scale: Tensor, choices: TileWeight, entropy: Tensor) -> Tensor:
        """Return the divergence of the teacher's choices from those of a view, [b]."""
        return dual_lse(x, text, scale).row - weighted(x, text, choices, scale).row - entropy

    # Clusters

    def _nearest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prototype next to each row of z and its share of their softmax, [b] each."""
        cosines = (z @ self.means.to(z).T) / self.prototype_tau
        there = torch.arange(self.prototypes, device=z.device) < self.founded
        best, nearest = cosines.masked_fill(~there, -torch.inf).max(1)
        lse = cosines.masked_fill(~there, -torch.inf).logsumexp(1)
        return nearest, (best - lse).exp().nan_to_num(0.0)

    def _contrast(self, z: Tensor, labels: Tensor, left_out: Tensor, weights: Tensor) -> Tensor:
        """Return the supervised contrastive loss among the views z [b, V, D] of all ranks."""
        labels, left_out, weights = (x.repeat_interleave(z.shape[1]) for x in (labels, left_out, weights))
        z = z.flatten(0, 1)
        members = parallel.total(torch.bincount(labels, minlength=self.prototypes + 1))[labels].to(z)
        own = (z * mean_of_equals(z, labels)).sum(1)
        lse = dual_lse(z, z, 1 / self.tau, exclude=self._mask(left_out)).row
        if self.self_positive:
            each, right = (lse - own / self.tau) / 2, ~left_out
        else:  # the mean over the others of its label
            others = (members * own - z.square().sum(1)) / (members - 1).clamp_min(1)
            each, right = lse - others / self.tau, ~left_out & (members > 1)
        return parallel.mean(torch.where(right, each, 0.0), weights * right)

    def _mask(self, left_out: Tensor) -> Mask | None:
        every = parallel.gather(left_out)
        masks: list[Mask] = [] if self.self_positive else [Pairs()]
        if bool(every.any()):
            masks.append(Where(lambda rows, cols: every[rows, None] | every[cols]))
        return Either(*masks) if len(masks) > 1 else masks[0] if masks else None

    @torch.no_grad()
    def after_step(self) -> None:
        z, nearest, weights = self._found
        counted = weights > 0
        founded = int(self.founded)
        if founded < self.prototypes:
            room = min(self.prototypes - founded, max(1, self.prototypes // FOUNDED))
            rows = parallel.rows_of(len(z))
            every = rows.gather(counted)
            new = rows.gather(z)[every][:room]
            self.means[founded : founded + len(new)] = new.to(self.means)
            self.founded.add_(len(new))
            counted = rows.own(every & (every.cumsum(0) > room))  # founders move no other prototype
        nearest = nearest[counted]
        sums = parallel.total(torch.zeros_like(self.means, dtype=z.dtype).index_add(0, nearest, z[counted]))
        counts = parallel.total(torch.bincount(nearest, minlength=self.prototypes))[:, None]
        moved = self.means.lerp((sums / counts.clamp_min(1)).to(self.means), self.prototype_rate)
        self.means.copy_(torch.where(counts > 0, moved, self.means))
