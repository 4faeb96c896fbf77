"""Positives of other classes, in the part of the space that two classes share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.config import ConfigError
from mmclr.heads.mlp import BatchNorm
from mmclr.losses.algebra import Either, Equal, joint_lse, joint_sum
from mmclr.losses.blank import those_alone
from mmclr.losses.hints import MANY, hint
from mmclr.losses.objective import Facts, Objective

CODE = 512  # features of a class's code


class Hydra(Objective, key="hydra"):
    """Pull an image to captions of another class, in those features that a gate learns to choose for the two classes.

    Wu et al., Rethinking Positive Pairs in Contrastive Learning, 2024, arXiv 2410.18200. Sample i of class a_i has the
    class b_i of a random partner, a gate g_i = sigmoid(MLP((code_a + code_b) / 2)) in (0, 1)^D, and
    l_ij = scale * cos(g_i image_i, g_i text_j), P_i = {j: class b_i}, N_i = {j: neither class a_i nor b_i}:
    L = sum_i sum_{P_i} [ log(exp l_ij + sum_{N_i} exp l_in) - l_ij ] / sum_i |P_i|, halved with the same of captions
    among images, + entropy * mean entropy of the gates.
    Reduces to: clip, for open gates, and partners of one's own class where all classes differ.
    Differs from the paper: image and caption; rows without negatives and samples without a class are left out, both
    sums count samples by their weights, and positives never meet in a denominator. Read from the authors' code (newest
    of several); the instance term is clip beside it. ReLU, BatchNorm, layer twice, statistics of the global batch.
    """

    gate: int = 1024  # hidden units of the gate
    entropy: float = 0.0  # weight of the gates' entropy, >= 0: above 0 they become sharp

    def setup(self, facts: Facts) -> None:
        if not facts.classes:
            raise ConfigError(
                "objectives: hydra needs classes, and nobody counted the classes of data.label: number them with "
                "mmclr data label SHARDS FIELD, and write data.label=column:label"
            )
        self.code = nn.Embedding(facts.classes, CODE)
        self.made = Gate(CODE, self.gate, facts.width)

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, label: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        seed, samples = sample_random.seed(index), parallel.count(index)
        known = (label >= 0) & (label < self.code.num_embeddings)
        with those_alone(known, image, text, label, index, weights) as (u, v, own, numbers, w):
            every = parallel.gather(own)
            if samples >= MANY and not bool((every != every[:1]).any()):
                hint(
                    f"hydra: {len(every)} of {samples} samples have a class and all the same, so there is nothing to "
                    "compare: set data.label to a column of mmclr data label with several classes"
                )
            other = every[sample_random.partners(numbers, seed)]
            gate = self._gates(own, other, w)
            loss = contrast(u, v, gate, own, other, w, scale) / 2 + contrast(v, u, gate, own, other, w, scale) / 2
            return loss + self.entropy * parallel.mean(binary_entropy(gate).mean(1), w)

    def _gates(self, one: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the gate of each pair of classes, [b, D]; the norms' statistics are those of the pairs."""
        return self.made((self.code(one) + self.code(other)) / 2, weights)


class Gate(nn.Module):
    """The features that two classes share, from the mean of their codes."""

    def __init__(self, code: int, hidden: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(code, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList([BatchNorm(code), BatchNorm(hidden)])

    def forward(self, code: Tensor, weights: Tensor | None = None) -> Tensor:
        """[b, code] -> numbers in (0, 1), [b, width]; pairs count by weights [b] in the norms."""
        hidden = self.first(self.norms[0](F.relu(code), weights))
        gates: Tensor = self.second(self.norms[1](F.relu(hidden), weights)).sigmoid()
        return gates


def contrast(
    x: Tensor, y: Tensor, gate: Tensor, own: Tensor, other: Tensor, weights: Tensor, scale: Tensor | float
) -> Tensor:
    """Return L of anchors x against y [b, D], each in its gate's features [b, D]: [], the same on every rank.

    own and other [b] are the classes of an anchor and of its partner. Two products make the cosine in any features:
    <g x, g y> = <g^2 x, y> and |g y|^2 = <g^2, y^2>, so that [b, B, D] never exists.
    """
    open_, tiny = gate.square(), torch.finfo(gate.dtype).tiny
    length = (open_ * x.square()).sum(1, keepdim=True).clamp_min(tiny).sqrt()
    products = [(open_ * x * (scale / length), y), (open_, y.square())]

    def logit(inner: Tensor, squared: Tensor) -> Tensor:
        return inner * squared.clamp_min(tiny).rsqrt()

    positive = Equal(other, own)
    negatives = joint_lse(products, logit, exclude=Either(Equal(own), positive)).row
    found = joint_sum(
        products, lambda inner, squared, lse: F.softplus(lse - logit(inner, squared)), rows=[negatives], only=positive
    )
    count = torch.where(negatives > -torch.inf, weights * found.row_count, 0.0)
    return parallel.total((weights * found.row).sum()) / parallel.total(count.sum()).clamp_min(tiny)


def binary_entropy(gate: Tensor) -> Tensor:
    """Return the entropy of numbers in (0, 1), each a chance, elementwise."""
    return torch.special.entr(gate) + torch.special.entr(1 - gate)


@torch.no_grad()
def overlaps(objective: Hydra) -> Tensor:
    """Return what share of the features each two classes have in common: the mean of their gate, [C, C].

    The norms' statistics are those of all pairs of two classes, each pair once.
    """
    count = objective.code.num_embeddings
    one, other = torch.triu_indices(count, count, 1)
    found = objective.code.weight.new_ones(count, count)
    found[one, other] = found[other, one] = objective._gates(one, other).mean(1)
    return found
