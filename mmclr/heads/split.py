"""An embedding in two parts: what samples of all domains have in common, and what is salient in one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.heads.head import Head, HeadConfig


class Split(HeadConfig, key="split"):
    """Read two parts from an embedding by matrices: a common one of length 1, and a salient one of any length.

    Louiset et al., Separating common from salient patterns with Contrastive Representation Learning, ICLR 2024, arXiv
    2402.11928. c = unit(A x), s = B x, shortened to norm_cap where it is longer; L = any objective on c. The objective
    sepclr trains both; in use (`--head`) an embedding is c, or with `both` unit([c; s]).
    Reduces to: a matrix, for salient 0.
    Differs from the paper: linear on top of a tower, one for each modality; the cap.
    """

    common: int = 64  # features that all domains share
    salient: int = 32  # features of what is salient; 0: none
    norm_cap: float = 10.0  # longest s, above 0
    both: bool = False  # in use, compare the two parts together

    def __post_init__(self) -> None:
        if self.common < 1 or self.salient < 0 or self.norm_cap <= 0:
            raise ValueError(
                f"common is at least 1, salient at least 0 and norm_cap above 0, not {self.common}, {self.salient} and "
                f"{self.norm_cap}"
            )

    def make(self, width: int) -> SplitHead:
        """Return the head for embeddings of `width` features."""
        return SplitHead(width, self)


class SplitHead(Head):
    """See Split."""

    def __init__(self, width: int, how: Split) -> None:
        super().__init__()
        self.how, self.width = how, how.common + (how.salient if how.both else 0)
        self.image, self.text = (nn.Linear(width, how.common + how.salient, bias=False) for _ in range(2))

    def parts(self, x: Tensor, side: str) -> tuple[Tensor, Tensor]:
        """Embeddings [n, ..., D] of a side -> unit vectors [n, ..., common], and [n, ..., salient]."""
        both = self.image(x) if side == "image" else self.text(x)
        c, s = both.split([self.how.common, self.how.salient], -1)
        return F.normalize(c, dim=-1), capped(s, self.how.norm_cap)

    def forward(self, x: Tensor, side: str, weights: Tensor | None = None) -> Tensor:
        c, s = self.parts(x, side)
        return c if not self.how.both else F.normalize(torch.cat([c, s], -1), dim=-1)

    def matrix(self, side: str) -> Tensor | None:
        if self.how.both:
            return None
        layer: nn.Linear = self.image if side == "image" else self.text
        return layer.weight[: self.how.common]


def capped(x: Tensor, length: float) -> Tensor:
    """Return vectors that are no longer than `length`, in their direction."""
    squared = x.square().sum(-1, keepdim=True)
    return x * (length / squared.clamp_min(length**2).sqrt())
