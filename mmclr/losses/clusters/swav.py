"""Tell to which prototypes one view of a sample is assigned from another view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.objective import Facts, Objective
from mmclr.losses.per_sample_state import Table
from mmclr.losses.sinkhorn import sinkhorn


class SwAV(Objective, key="swav", cost="local"):
    """Assign images and captions to learnt prototypes, evenly over the batch, and predict each from the other.

    Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020, arXiv
    2006.09882. With unit prototypes C, p = softmax(C x / tau) and q = sinkhorn(C x / eps) without gradient, so that
    every prototype gets as many samples as any other:
    L = -1/2 mean_i sum_k [ q_text_ik log p_image_ik + q_image_ik log p_text_ik ].
    Reduces to: the entropy of q, where p equals it.
    Differs from the paper: the two sides of a pair in place of two crops, its head is left to `head`; prototypes are
    normalised as they are used; former samples (`queue`) weigh as much as new ones.
    """

    prototypes: int = 1000  # K; not many more than samples that are assigned at once
    tau: float = 0.1  # temperature of the predictions
    eps: float = 0.05  # entropy of the assignments: sharper when smaller, > 0
    iterations: int = 3  # of Sinkhorn
    freeze: float = 0.01  # share of the training in which prototypes stand still, 0 to 1
    queue: int = 0  # former samples that are assigned together with the batch; 0: none
    queue_begin: float = 0.15  # share of the training after which they are

    def setup(self, facts: Facts) -> None:
        self.prototype = nn.Parameter(F.normalize(torch.randn(self.prototypes, facts.width), dim=1))
        if self.queue:
            self.former = Table(self.queue, torch.zeros(2 * facts.width + 1))  # image, caption, weight
            self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, text: Tensor, weights: Tensor, progress: Tensor) -> Tensor:
        return self._swap([image, text], [], weights, progress)

    def _swap(self, sides: list[Tensor], views: Sequence[Tensor], weights: Tensor, progress: Tensor) -> Tensor:
        """Return the mean over sides of what it costs to tell their assignments from the other sides and the views."""
        prototypes = F.normalize(self.prototype, dim=1)
        if progress < self.freeze:
            prototypes = prototypes.detach() + 0 * prototypes  # a gradient all the same: DDP waits for it
        scores = [x @ prototypes.T for x in (*sides, *views)]
        logs = [(score / self.tau).log_softmax(1) for score in scores]
        loss = torch.zeros_like(weights)
        for number in range(len(sides)):
            q = self._assign(scores[number], prototypes, number, weights, bool(progress >= self.queue_begin))
            others = [log for other, log in enumerate(logs) if other != number]
            loss = loss - (q * torch.stack(others).mean(0)).sum(1)
        if self.queue and torch.is_grad_enabled():
            self.found = torch.cat([*sides, weights[:, None]], 1).detach()
        return parallel.mean(loss, weights) / len(sides)

    @torch.no_grad()
    def _assign(self, scores: Tensor, prototypes: Tensor, side: int, weights: Tensor, queued: bool) -> Tensor:
        """Return the shares [b, K] of the prototypes in each sample."""
        rows = len(scores)
        if self.queue and queued:
            former = self.former.rows.to(scores)  # whichever lie on this rank: all of them count alike
            width = prototypes.shape[1]
            scores = torch.cat([scores, former[:, side * width : (side + 1) * width] @ prototypes.T])
            weights = torch.cat([weights, former[:, -1]])
        return sinkhorn(scores, self.eps, self.iterations, weights)[:rows]

    def after_step(self) -> None:
        if self.queue:
            written, rows = self.get_buffer("written"), parallel.rows_of(len(self.found))
            place = rows.own(torch.arange(rows.total, device=self.found.device))
            kept = place >= rows.total - self.queue  # of a batch larger than the queue, its end
            self.former.write(torch.where(kept, (written + place) % self.queue, -1), self.found)
            written += rows.total


class SwAVViews(SwAV, key="swav_views", cost="local"):
    """Tell the prototypes of an image and of its caption from further views of the image, too.

    Caron et al., SwAV, NeurIPS 2020, arXiv 2006.09882, its multi-crop. As swav; with views v of each image:
    L = -1/2 mean_i sum_k [ q_text_ik mean_x log p_x_ik + q_image_ik mean_y log p_y_ik ], x over the image and its
    views, y over the caption and the image's views.
    Reduces to: swav, without views.
    Differs from the paper: as swav; small crops are as large as others.
    """

    def forward(  # type: ignore[override]
        self, image: Tensor, text: Tensor, views: Tensor, weights: Tensor, progress: Tensor
    ) -> Tensor:
        return self._swap([image, text], views.unbind(1), weights, progress)
