"""Several heads, and a temperature of each pair in each head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.heads.multi import MultiHead
from mmclr.losses.algebra import Mask, joint_lse, top
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective


class AMCL(Objective, key="amcl"):
    """Compare pairs in several heads, each pair at a temperature that a small network tells from the two.

    Wang et al., Adaptive Multi-head Contrastive Learning, ECCV 2024, arXiv 2310.05615. In each head of width d, with
    s_ij = <x_i, y_j>, t_ij = tau_min + (tau_max - tau_min) sigmoid(-<f(x_i), f(y_j)>), O(t) = d/2 log t + 1/t:
    softmax: L = mean_i [ softplus(log sum_{j != i} exp(s_ij/t_ij) - s_ii/t_ii) + beta O(t_ii) ];
    top, the paper's, T the k closest: L = mean_i [ mean_T s_ij/t_ij - s_ii/t_ii + beta (O(t_ii) - sum_T O(t_ij)) ];
    halved with the same of captions, summed over heads. The model's scale has no part in it.
    Reduces to: clip of one head at temperature tau, for tau_min = tau_max = tau and beta 0.
    Differs from the paper: softmax by default, as top rewards t_ij -> tau_min where s_ij < beta; heads read the
    embedding; with k > 1, O of the negatives has d/2 as for k = 1.
    """

    heads: int = 3  # heads for each modality
    out: int = 128  # d, features of a head
    hidden: int = 512  # units of a head's hidden layer
    tau_min: float = 0.01  # temperatures are above this
    tau_max: float = 0.5  # and below this
    beta: float = 1e-4  # weight of the temperatures' penalty, >= 0
    form: Literal["softmax", "top"] = "softmax"  # all negatives, or the k closest
    k: int = 100  # negatives of the form "top"
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if not 0 < self.tau_min <= self.tau_max:
            raise ValueError(f"tau_min is above 0 and at most tau_max, not {self.tau_min} and {self.tau_max}")

    def setup(self, facts: Facts) -> None:
        self.head = MultiHead(facts.width, self.heads, self.hidden, self.out)
        self.told = nn.Sequential(nn.Linear(self.out, self.out), nn.ReLU(), nn.Linear(self.out, self.out))  # f

    def forward(self, image: Tensor, text: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        pairs = zip(self.head.each(image, "image"), self.head.each(text, "text"))
        return parallel.mean(torch.stack([self._contrast(x, y, same) for x, y in pairs]).sum(0), weights)

    def _contrast(self, x: Tensor, y: Tensor, same: Mask) -> Tensor:
        """Return the loss of each pair in one head, [b]; x and y are its features of images and captions."""
        f, g = self.told(x), self.told(y)
        temperature = self._temperature((f * g).sum(1))
        pull = (x * y).sum(1) / temperature
        penalty = self.beta * self._penalty(temperature)
        if self.form == "top":
            return penalty - pull + (self._closest(x, y, f, g, same) + self._closest(y, x, g, f, same)) / 2
        lse = joint_lse([(x, y), (f, g)], lambda s, r: s / self._temperature(r), exclude=same)
        return penalty - (F.logsigmoid(pull - lse.row) + F.logsigmoid(pull - lse.col)) / 2

    def _closest(self, x: Tensor, y: Tensor, f: Tensor, g: Tensor, same: Mask) -> Tensor:
        """Return what the k closest negatives of each row add, [b]; 0 without any."""
        values, columns = top(x, y, self.k, exclude=same)
        there = values > -torch.inf
        temperature = self._temperature((f[:, None] * parallel.gather(g)[columns]).sum(2))
        scores = torch.where(there, values, 0.0) / temperature
        penalty = torch.where(there, self._penalty(temperature), 0.0)
        return scores.sum(1) / there.sum(1).clamp_min(1) - self.beta * penalty.sum(1)

    def _temperature(self, r: Tensor) -> Tensor:
        return self.tau_min + (self.tau_max - self.tau_min) * (-r).sigmoid()

    def _penalty(self, temperature: Tensor) -> Tensor:
        """Return -log of the likelihood's normaliser, least at temperature 2 / d."""
        return self.out / 2 * temperature.log() + 1 / temperature
