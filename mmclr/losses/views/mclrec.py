"""Further views of a batch that two small networks learn to make of its features, for the price of no tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Either, Equal, Mask, dual_lse, top, weighted
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective


class MCLRec(Objective, key="mclrec"):
    """Contrast pairs also through what learnt augmenters make of their features; each learns while the other is fixed.

    Qin et al., Meta-optimized Contrastive Learning for Sequential Recommendation, SIGIR 2023, arXiv 2304.07763.
    u~ = g_image(image), v~ = g_text(text) of unit norm, C = clip, sg = constant, theta = weights of both g:
    A(u, v; theta) = C(u, v~) + C(u~, v) + C(u~, v~) + gamma [R(u, v~) + R(u~, v) + R(u~, v~)],
    L = C(u, v) + beta A(u, v; sg theta) + A(sg u, sg v; theta), the last with a constant scale. R(x, y), z = [x; y],
    p_i = <x_i, y_i>, n_ik the other rows' <z_i, z_k>, n_i their largest: R = mean_i [ max(0, p_i - n_i) +
    mean_k (max(p_i, n_i) - n_ik) ] asks augmenters for views that are hard.
    Reduces to: the towers' gradient of clip for beta 0.
    Differs from the paper: image and text in place of two views of a sequence; one step in place of the alternation;
    clip's scale in C, and 1 in R, in which equal images and equal captions are no negatives either.
    """

    beta: float = 0.1  # weight of the augmented terms for the towers, >= 0; above 0.2 features collapse
    gamma: float = 0.1  # weight of R, >= 0
    every: int = 1  # augmenters learn in every so many steps, >= 1
    ntxent: bool = False  # C tells a row also from rows of its own modality (their NT-Xent)
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if min(self.beta, self.gamma) < 0 or self.every < 1:
            raise ValueError("beta and gamma are at least 0, and every is at least 1")

    def setup(self, facts: Facts) -> None:
        self.of_image, self.of_text = Augmenter(facts.width), Augmenter(facts.width)
        self.step = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        ids = (image_id, caption_id) if self.duplicates == "mask" else ()
        across, within = not_negatives(self.duplicates, image_id, caption_id), twice(len(image), image.device, *ids)

        def contrast(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
            return nt_xent(x, y, s, within, weights) if self.ntxent else clip(x, y, s, across, weights)

        def augmented(u: Tensor, v: Tensor, s: Tensor, constant: bool) -> Tensor:
            of_u, of_v = self.of_image(u, constant), self.of_text(v, constant)
            views = [(u, of_v), (of_u, v), (of_u, of_v)]
            total = torch.stack([contrast(x, y, s) for x, y in views]).sum()
            if self.gamma:
                total = total + self.gamma * torch.stack([hardness(x, y, within, weights) for x, y in views]).sum()
            return total

        loss = contrast(image, text, scale)
        if self.beta:
            loss = loss + self.beta * augmented(image, text, scale, constant=True)
        if self.step % self.every == 0:
            return loss + augmented(image.detach(), text.detach(), scale.detach(), constant=False)
        return loss + torch.stack([p.sum() for p in self.parameters()]).sum() * 0

    def after_step(self) -> None:
        self.step.add_(1)


class Augmenter(nn.Module):
    """A perceptron D, D/2, D/4, D with GELU between, and a unit-norm output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, max(1, width // 2), max(1, width // 4), width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x: Tensor, constant: bool = False) -> Tensor:
        """[b, D] -> [b, D]; `constant`: its weights get no gradient, x does."""
        for number, layer in enumerate(self.layers):
            weight, bias = layer.parameters()
            x = F.gelu(x) if number else x
            x = F.linear(x, weight.detach(), bias.detach()) if constant else F.linear(x, weight, bias)
        return F.normalize(x, dim=1)


def twice(b: int, device: torch.device, *ids: Tensor) -> Mask:
    """Return the pairs of the rows [x; y], 2 b of each rank, that are one sample's, or have equal ids [b]."""
    rows = parallel.rows_of(b)
    numbers = rows.own(torch.arange(rows.total, device=device))
    own, *others = (Equal(of.repeat(2)) for of in (numbers, *(of for of in ids if not Equal(of).only_pairs)))
    return Either(own, *others) if others else own


def clip(x: Tensor, y: Tensor, scale: Tensor, same: Mask, weights: Tensor) -> Tensor:
    """Return the contrastive loss of pairs x, y [b, D], by weights [b], without the pairs `same` as negatives."""
    row, col, pair, *_ = dual_lse(x, y, scale, exclude=same)
    return -parallel.mean(F.logsigmoid(pair - row) + F.logsigmoid(pair - col), weights) / 2


def nt_xent(x: Tensor, y: Tensor, scale: Tensor, same: Mask, weights: Tensor) -> Tensor:
    """Return NT-Xent of pairs x, y [b, D], by weights [b]: each row against those of both; `same` is of `twice`."""
    z = torch.cat([x, y])
    row = dual_lse(z, z, scale, exclude=same).row
    return -parallel.mean(F.logsigmoid((scale * (x * y).sum(1)).repeat(2) - row), weights.repeat(2))


def hardness(x: Tensor, y: Tensor, same: Mask, weights: Tensor) -> Tensor:
    """Return R(x, y) of pairs x, y [b, D], by weights [b]; `same` is of `twice`. A row without a negative counts 0."""
    z, p = torch.cat([x, y]), (x * y).sum(1).repeat(2)
    hardest = top(z, z, 1, exclude=same).values[:, 0]
    some = hardest > -torch.inf
    n = torch.where(some, hardest, p)
    others = weighted(z, z, lambda rows, cols: same.keep(rows, cols, z.new_empty(_shape(rows, cols))))
    mean = torch.where(some, others.row / others.row_total.clamp_min(1), n)
    each = (p - n).clamp_min(0) + torch.where(some, torch.maximum(p, n) - mean, 0.0)
    return parallel.mean(each, weights.repeat(2))


def _shape(rows: slice, cols: slice) -> tuple[int, int]:
    return rows.stop - rows.start, cols.stop - cols.start
