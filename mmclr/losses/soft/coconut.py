"""Old classes that stay where an earlier model had them, while new ones are learnt."""

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import Pairs, dual_lse
from mmclr.losses.objective import Objective
from mmclr.losses.targets import mean_of_equals


class Coconut(Objective, key="coconut", needs_teacher=True):
    """Draw replayed samples to where the last task's model had their class, and away from all that there is now.

    Cappellazzo et al., Continual Contrastive Spoken Language Understanding, ACL Findings 2024, arXiv 2310.02699; the
    formula (their NSPT) is derived from its abstract and reviews. Over replayed samples k, with student features a,
    those of the frozen model a', P(k) = all samples of the batch with k's label, k too, in one modality:
    L_k = log sum_i exp(<a_k, a_i> / tau) - mean_{p in P(k)} <a_k, a'_p> / tau,  over all i of the batch, k too,
    L = mean_k L_k of images, halved with the same of captions; 0 where nothing is replayed. It can be negative.
    Wants teacher: RUN of the last task, and data.fields.replayed: source:NAME (or a json field).
    Reduces to: supervised contrast with oneself among positives and negatives, where both models are one.
    Differs from the paper: images and captions in place of audio; clip is its multimodal part, on new samples by
    reweight: {use: where, keep: replayed == false}. What has no label has itself alone for a positive.
    """

    tau: float = 0.1  # temperature, > 0
    exclude_self: bool = False  # leave the sample itself out of the sum, where exp(1 / tau) may outweigh all others

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise ValueError(f"tau is above 0, not {self.tau}")

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        frozen_image: Tensor,
        frozen_text: Tensor,
        label: Tensor,
        replayed: Tensor,
        weights: Tensor,
    ) -> Tensor:
        sides = ((image, frozen_image), (text, frozen_text))
        each = [nspt(a, before.detach(), label, self.tau, self.exclude_self) for a, before in sides]
        return parallel.mean(each[0] + each[1], weights * replayed) / 2


def nspt(a: Tensor, before: Tensor, label: Tensor, tau: float, exclude_self: bool = False) -> Tensor:
    """Return log sum_i exp(<a_k, a_i> / tau) less the mean of <a_k, before_p> / tau over p with k's label: [b].

    a and before [b, D], label int64 [b] are this rank's rows; sums and means are over those of all ranks. 0 where
    the sum is empty.
    """
    row = dual_lse(a, a, 1 / tau, exclude=Pairs() if exclude_self else None).row
    near = (a * mean_of_equals(before, label)).sum(1) / tau
    return torch.where(row > -torch.inf, row - near, 0.0)
