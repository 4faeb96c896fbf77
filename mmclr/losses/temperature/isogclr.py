"""The global contrastive loss with a temperature for each sample, and SogCLR where these stand still."""

import math

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import Lse, Pairs, dual_lse
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective
from mmclr.losses.per_sample_state import Table


class ISogCLR(Objective, key="isogclr"):
    """Give each anchor its own temperature, and average its negatives over all its visits instead of one batch.

    Qiu et al., Not All Semantics are Created Equal, ICML 2023, arXiv 2305.11965; with eta 0 SogCLR, Yuan et al., ICML
    2022, arXiv 2202.12387. For images h_ij = <image_i, text_j> - <image_i, text_i>, g_i = mean_{j != i} exp(h_ij / t_i)
    and s_i <- (1-gamma) s_i + gamma g_i:  L = mean_i t_i (log s_i + rho), and the same for captions. Its gradient is
    that of t_i log g_i times g_i / s_i; after the step t_i <- clip(t_i - eta m_i), m_i <- (1-beta) m_i + beta dL/dt_i.
    Reduces to: dcl at temperature t, times 2t, with gamma 1, eta 0 and rho 0, up to log(B-1).
    Differs from the paper: its loss has this gradient and another value; s is kept as a logarithm, so that nothing
    overflows; the pair itself is left out of g. Keeps 24 bytes a pair, shared out among ranks.
    """

    rho: float = 6.0  # pushes temperatures down; below log(B-1), or they can only fall
    gamma: float = 0.8  # share of the newest batch in s, above 0 to 1; 1 at the first visit
    tau: float = 0.01  # temperature at the start
    tau_min: float = 0.005  # temperatures stay above this
    tau_max: float = 1.0  # and below this
    eta: float = 0.03  # step of the temperatures; 0: they stay (SogCLR)
    beta: float = 0.9  # share of the newest gradient in the one that they follow, above 0 to 1
    clip: float = 5.0  # bound of their gradients
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if not 0 < self.tau_min <= self.tau <= self.tau_max:
            raise ValueError(f"tau is between tau_min and tau_max, above 0, not {self.tau}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is a share, above 0 to 1, not {self.gamma}")

    def setup(self, facts: Facts) -> None:
        # log s, momentum, temperature; of the image and of the caption each
        self.samples = Table(facts.samples, torch.tensor([-math.inf, -math.inf, 0.0, 0.0, self.tau, self.tau]))

    def forward(
        self, image: Tensor, text: Tensor, index: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        old, momentum, tau = self.samples.read(index).to(image.dtype).unflatten(1, (3, 2)).unbind(1)
        inverse = [t.requires_grad_(self.eta > 0 and torch.is_grad_enabled()) for t in tau.reciprocal().unbind(1)]
        lse = dual_lse(image, text, exclude=same, row_scale=inverse[0], col_scale=inverse[1])
        count: Tensor | float = math.log(max(1, parallel.count(index) - 1))
        if not isinstance(same, Pairs):
            without = dual_lse(image.detach(), text.detach(), 0.0, exclude=same)  # logarithms of numbers of negatives
            count = torch.stack([without.row, without.col], 1)
        log_g = torch.stack([lse.row, lse.col], 1) - lse.pair[:, None] / tau - count
        some = log_g.isfinite()
        log_g = torch.where(some, log_g, 0.0)
        new = self._averaged(old, log_g.detach())
        share = torch.where(some, (log_g.detach() - new).exp(), 0.0)
        self._keep(index, torch.where(some, new, old), momentum, tau, share, lse, inverse)
        pull = share * tau * log_g
        value = torch.where(some, tau * (new + self.rho), 0.0)
        return parallel.mean((pull + (value - pull).detach()).sum(1), weights)

    def _averaged(self, old: Tensor, log_g: Tensor) -> Tensor:
        """Return the new log s, [b, 2]."""
        if self.gamma == 1:
            return log_g
        moved = torch.logaddexp(old + math.log1p(-self.gamma), log_g + math.log(self.gamma))
        return torch.where(old == -torch.inf, log_g, moved)

    def _keep(
        self,
        index: Tensor,
        log_s: Tensor,
        momentum: Tensor,
        tau: Tensor,
        share: Tensor,
        lse: Lse,
        inverse: list[Tensor],
    ) -> None:
        """Put aside what the table takes in after the step."""
        if not torch.is_grad_enabled():
            return
        if self.eta > 0:
            # The mean of s under an anchor's softmax is the derivative of its log-sum-exp in the inverse temperature.
            means = torch.autograd.grad(lse.row.sum() + lse.col.sum(), inverse, retain_graph=True)
            h = torch.stack(means, 1) - lse.pair.detach()[:, None]
            slope = torch.where(share > 0, log_s + self.rho - share * h / tau, 0.0).clamp(-self.clip, self.clip)
            momentum = momentum.lerp(slope, self.beta)
            tau = (tau - self.eta * momentum).clamp(self.tau_min, self.tau_max)
        self.found = index, torch.cat([log_s, momentum, tau], 1).detach()

    def after_step(self) -> None:
        self.samples.write(*self.found)
