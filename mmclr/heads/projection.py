"""Heads that are plain functions of one embedding: weights per feature, a matrix, a perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.heads.head import Head, HeadConfig


class Reweight(HeadConfig, key="reweight"):
    """Weigh the features of an embedding unequally, the same way in both modalities, and learn nothing.

    Xue et al., Investigating the Benefits of Projection Head for Representation Learning, ICLR 2024, arXiv 2403.11391.
    h(x) = unit(w * x), w_d = kappa^-d for d = 0 ... D-1; L = any objective on h. The embedding below, which is what a
    model gives unless the head is asked for, keeps what the weighted one drops.
    Reduces to: no head, for kappa 1; a cosine in the metric diag(w^2).
    Differs from the paper: reads the embedding of unit length, which makes no difference to it.
    """

    kappa: float = 1.01  # ratio of the weights of neighbours, >= 1; kappa^D beyond 1e30 is nothing in float32

    def __post_init__(self) -> None:
        if self.kappa < 1:
            raise ValueError(f"kappa is at least 1, not {self.kappa}")

    def make(self, width: int) -> Head:
        """Return the head for embeddings of `width` features."""
        return _Reweight(width, self.kappa)


class Perceptron(HeadConfig, key="mlp"):
    """Put a perceptron between the embedding and the objective, one for each modality.

    Xue et al., Investigating the Benefits of Projection Head for Representation Learning, ICLR 2024, arXiv 2403.11391;
    Chen et al., SimCLR, ICML 2020, arXiv 2002.05709. h(x) = unit(W_2 relu(W_1 x)); L = any objective on h. After
    training the embedding below is flatter: a feature's weight there is the root of its weight behind the head.
    Reduces to: a matrix, for hidden 0.
    Differs from the paper: reads the embedding of unit length.
    """

    hidden: int = 512  # units of the hidden layer; 0: none
    out: int = 128  # features of what the objective compares
    shared: bool = False  # one for both modalities

    def make(self, width: int) -> Head:
        """Return the head for embeddings of `width` features."""
        return _Perceptron(width, self.hidden, self.out, self.shared)


class _Reweight(Head):
    def __init__(self, width: int, kappa: float) -> None:
        super().__init__()
        self.width = width
        weights = torch.full((width,), kappa, dtype=torch.float64) ** -torch.arange(width)
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, x: Tensor, side: str, weights: Tensor | None = None) -> Tensor:
        return F.normalize(x * self.get_buffer("weights").to(x.dtype), dim=-1)

    def matrix(self, side: str) -> Tensor | None:
        return self.get_buffer("weights").diag()


class _Perceptron(Head):
    def __init__(self, width: int, hidden: int, out: int, shared: bool) -> None:
        super().__init__()
        self.width = out
        self.image, self.text = (_layers(width, hidden, out) if not (s and shared) else None for s in range(2))

    def forward(self, x: Tensor, side: str, weights: Tensor | None = None) -> Tensor:
        layers: nn.Module = self.of(side)  # type: ignore[assignment]
        return F.normalize(layers(x), dim=-1)

    def matrix(self, side: str) -> Tensor | None:
        layers = self.of(side)
        return layers.weight if isinstance(layers, nn.Linear) else None


def _layers(width: int, hidden: int, out: int) -> nn.Module:
    if not hidden:
        return nn.Linear(width, out, bias=False)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
