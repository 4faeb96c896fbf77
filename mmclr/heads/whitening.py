"""Whitening in small groups of features, which a permutation shuffles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.heads.head import Head, HeadConfig

FLOOR = 1e-12  # eigenvalues count as this much at least: a batch of equal rows has none


class Whiten(HeadConfig, key="whiten"):
    """Whiten the embeddings of a batch in small groups of features, drawn anew each step, before an objective.

    Zhuo et al., Whitening-based Contrastive Learning of Sentence Embeddings, ACL 2023, arXiv 2305.17746. Features are
    shuffled and cut into groups; h(x) = unit(tanh(A y)), y = S^(-1/2) (x - m) in each group, m and S the mean and
    covariance of the global batch, of each modality its own; L = any objective on h.
    In use, running averages of m and S stand for those of a batch, and nothing is shuffled.
    Reduces to: standardised features, for groups of 1.
    Differs from the paper: reads the embedding of unit length; one shuffle here, several in whitened_cse.
    """

    group: int = 4  # features that are whitened together, a divisor of D; well below the batch
    eps: float = 1e-4  # added to the covariance, as a share of its mean eigenvalue in the group
    detach: bool = True  # no gradient through S^(-1/2), as in the paper's code
    tail: bool = True  # the layer A and tanh; false: h is unit(y)
    momentum: float = 0.99  # of the running averages

    def make(self, width: int) -> Whitening:
        """Return the head for embeddings of `width` features."""
        if width % self.group:
            raise ConfigError(f"head.group: the embedding's {width} features cannot be cut into groups of {self.group}")
        return Whitening(width, self)


class Whitening(Head):
    """See Whiten."""

    def __init__(self, width: int, how: Whiten) -> None:
        super().__init__()
        self.width, self.how = width, how
        self.image, self.text = (nn.Linear(width, width) if how.tail else None for _ in range(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for side in ("image", "text"):
            self.register_buffer(f"{side}_mean", torch.zeros(width))
            self.register_buffer(f"{side}_covariance", torch.eye(width))
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, side: str, weights: Tensor | None = None) -> Tensor:
        return self.copies(x, side, [torch.randperm(self.width)], weights)[0]

    def copies(self, x: Tensor, side: str, shuffles: list[Tensor], weights: Tensor | None = None) -> list[Tensor]:
        """Return the unit vectors [n, ..., D] for each shuffle, a permutation of the D features."""
        if self.training:
            mean, covariance = moments(x, weights)
            self.found[side] = mean.detach(), covariance.detach()
        else:
            mean, covariance = (self.get_buffer(f"{side}_{name}").to(x) for name in ("mean", "covariance"))
            shuffles = [torch.arange(self.width)] * len(shuffles)
        if self.how.detach:
            covariance = covariance.detach()
        tail, out = self.of(side), []
        for shuffle in shuffles:
            y = whiten(x - mean, covariance, shuffle.to(x.device), self.how.group, self.how.eps)
            out.append(F.normalize(y if tail is None else tail(y).tanh(), dim=-1))
        return out

    def after_step(self) -> None:
        steps = self.get_buffer("steps")
        for side, values in self.found.items():
            for name, value in zip(("mean", "covariance"), values):
                kept = self.get_buffer(f"{side}_{name}")
                kept.lerp_(value.to(kept), (1 - self.how.momentum) if steps > 0 else 1.0)
        steps += 1


def moments(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean [D] and biased covariance [D, D] of the rows x [b, ..., D] of all ranks, weighed by weights [b]."""
    inner = tuple(range(1, x.dim() - 1))
    mean = parallel.mean(x.mean(inner) if inner else x, weights)
    centred = (x - mean).flatten(1, -2) if inner else (x - mean)[:, None]  # [b, k, D]
    share = parallel.shares(torch.ones_like(x.flatten(1)[:, 0]) if weights is None else weights.to(x.dtype))
    share = share[:, None, None] / centred.shape[1]
    return mean, parallel.total(((centred * share).flatten(0, 1)).T @ centred.flatten(0, 1))


def whiten(centred: Tensor, covariance: Tensor, shuffle: Tensor, group: int, eps: float) -> Tensor:
    """Return centred [..., D] whitened in groups of neighbours after a shuffle [D], features back in their places."""
    at = shuffle.view(-1, group)
    blocks = covariance[at[:, :, None], at[:, None, :]]
    level = blocks.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    root = _InverseRoot.apply(blocks + eps * level * torch.eye(group, dtype=blocks.dtype, device=blocks.device))
    y = torch.einsum("...gd,gde->...ge", centred[..., at], root)
    return y.flatten(-2)[..., shuffle.argsort()]


class _InverseRoot(torch.autograd.Function):
    """S^(-1/2) of symmetric matrices, with a derivative that does not mind equal eigenvalues, unlike eigh's own."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(blocks.double())
        root = values.clamp_min(FLOOR).sqrt()
        ctx.save_for_backward(root, vectors)
        return ((vectors / root[..., None, :]) @ vectors.mT).to(blocks.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        root, vectors = ctx.saved_tensors
        a, b = root[..., :, None], root[..., None, :]
        inner = -(vectors.mT @ grad.double() @ vectors) / (a * b * (a + b))  # (1/a - 1/b) / (a^2 - b^2)
        return (vectors @ inner @ vectors.mT).to(grad.dtype)
