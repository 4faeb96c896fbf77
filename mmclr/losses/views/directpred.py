"""Non-contrastive prediction whose predictor is not trained: it is set from the statistics of what it reads."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.objective import Facts, Objective

FLOOR = 1e-4  # smallest eigenvalue of a predictor: no direction may die


class DirectPred(Objective, key="directpred", cost="local"):
    """Predict the teacher's caption from the image, and its image from the caption, by matrices in closed form.

    Tian et al., Understanding self-supervised Learning Dynamics without Contrastive Pairs, ICML 2021, arXiv
    2102.06810. F = Q diag(s) Q^T runs after the correlation mean_i x_i x_i^T, W = Q diag(p) Q^T without gradient:
    L = mean_i [1 - cos(W_image image_i, ema_text_i)] + mean_i [1 - cos(W_text text_i, ema_image_i)],
    relative: p = max(sqrt(s / max s) + eps, 1e-4), their code; paper: p = sqrt(s) + eps max s; copy: W = F + eps
    (DirectCopy, no eigenvalues to find). Has no negatives: alone it may collapse, beside clip it cannot.
    Reduces to: the mean of 2 - 2 cos over both directions, where F is a multiple of the identity.
    Differs from the paper: image and text instead of two views; F is of unit-norm embeddings. `ema: 0` for its SimSiam.
    """

    predictor: Literal["relative", "paper", "copy"] = "relative"  # how W comes from F
    rho: float = 0.3  # share of F that stays in each step, 0 to 1
    eps: float = 0.01  # least eigenvalue of W, >= 0 (relative to the largest)

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho is a share, 0 to 1, not {self.rho}")

    def setup(self, facts: Facts) -> None:
        self.correlations = nn.Buffer(torch.zeros(2, facts.width, facts.width, dtype=torch.float64))

    def forward(self, image: Tensor, text: Tensor, ema_image: Tensor, ema_text: Tensor, weights: Tensor) -> Tensor:
        self._found = self._taken_in(torch.stack([image, text]).double(), weights.double())
        of_image, of_text = (self._predictor(f).to(image) for f in self._found)
        of_image = F.cosine_similarity(image @ of_image, ema_text.detach())
        of_text = F.cosine_similarity(text @ of_text, ema_image.detach())
        return parallel.mean(2 - of_image - of_text, weights)

    @torch.no_grad()
    def _taken_in(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return F of both sides with this batch taken in, [2, D, D]; the first batch begins it. x [2, b, D]."""
        now = parallel.total((x * parallel.shares(weights)[:, None]).mT @ x)
        before = self.correlations.to(now)
        return torch.where(before.any(), before.lerp(now, 1 - self.rho), now)

    def _predictor(self, f: Tensor) -> Tensor:
        if self.predictor == "copy":
            return f + self.eps * torch.eye(len(f), dtype=f.dtype, device=f.device)
        values, vectors = torch.linalg.eigh(f.nan_to_num(0.0, 0.0, 0.0))  # it would raise; the loss is NaN anyway
        top = values[-1].clamp_min(0)
        values = values.where(values > len(f) * torch.finfo(f.dtype).eps * top, 0.0)  # the rest is rounding
        if self.predictor == "paper":
            p = values.sqrt() + self.eps * top
        else:
            p = ((values / top.clamp_min(torch.finfo(f.dtype).tiny)).sqrt() + self.eps).clamp_min(FLOOR)
        return (vectors * p) @ vectors.T

    def after_step(self) -> None:
        self.correlations.copy_(self._found)
