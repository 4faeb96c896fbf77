"""Several heads side by side, whose similarities are averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.heads.head import Head


class MultiHead(Head):
    """`count` perceptrons of one hidden layer for each side, drawn independently, or else they would stay copies.

    As a whole it maps to `count` unit vectors in a row, of length 1 together: the dot product of two such rows is the
    mean over heads of their cosines.
    """

    def __init__(self, width: int, count: int, hidden: int, out: int) -> None:
        super().__init__()
        self.width = count * out
        self.image, self.text = (
            nn.ModuleList(
                nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out)) for _ in range(count)
            )
            for _ in range(2)
        )

    def each(self, x: Tensor, side: str) -> list[Tensor]:
        """Embeddings [n, D] of a side, "image" or "text" -> unit vectors [n, out] of each head."""
        heads = self.image if side == "image" else self.text
        return [F.normalize(head(x), dim=-1) for head in heads]

    def forward(self, x: Tensor, side: str, weights: Tensor | None = None) -> Tensor:
        several = self.each(x, side)
        return torch.cat(several, -1) / len(several) ** 0.5
