"""Projectors and predictors: small perceptrons on top of embeddings, normalised over the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel


class BatchNorm(nn.Module):
    """Mean 0 and variance 1 of each feature over the samples of all ranks, then a learnt affine map.

    Ioffe and Szegedy, ICML 2015, arXiv 1502.03167. Several views of a sample have statistics of their own, and nothing
    is kept for an evaluation: heads are only trained through.
    """

    def __init__(self, width: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """[b, ..., width] -> the same; samples count by weights [b]."""
        centred = x - parallel.mean(x, weights)
        x = centred * (parallel.mean(centred.square(), weights) + self.eps).rsqrt()
        return x if self.weight is None or self.bias is None else x * self.weight + self.bias


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm for a place where a BatchNorm might be: it asks for no weights of samples."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """[..., width] -> the same."""
        return super().forward(x)


class MLP(nn.Module):
    """Linear layers with a norm and ReLU between them."""

    def __init__(
        self, widths: Sequence[int], norm: Literal["batch", "layer"] = "batch", last: Literal["", "norm"] = ""
    ) -> None:
        """`widths`: of the input, the hidden layers and the output; last "norm" ends with a plain BatchNorm."""
        super().__init__()
        kind, pairs = BatchNorm if norm == "batch" else LayerNorm, list(zip(widths, widths[1:]))
        self.linear = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairs[:-1])
        self.norm = nn.ModuleList(kind(width) for width in widths[1:-1])
        self.out = nn.Linear(*pairs[-1], bias=not last)
        self.last = BatchNorm(widths[-1], affine=False) if last else None

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """[b, ..., first width] -> [b, ..., last width]; samples count by weights [b] in the norms."""
        for linear, norm in zip(self.linear, self.norm):
            x = F.relu(norm(linear(x), weights))
        x = self.out(x)
        return x if self.last is None else self.last(x, weights)
