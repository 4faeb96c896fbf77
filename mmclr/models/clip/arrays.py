"""Our tower for arrays: time series, sensors, residues, rows of tables in place of images, with the blocks of the ViT.

An array [T, C] becomes tokens as an image does: a patch is `patch` consecutive steps of all channels, mapped linearly.
Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929; Nie et al., A Time Series is Worth 64
Words, ICLR 2023, arXiv 2211.14730, patch channels one by one. A row [C] becomes a token per value, which has a vector
of its own, as in the FT-Transformer: Gorishniy et al., NeurIPS 2021, arXiv 2106.11959.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.models.clip.blocks import Block, Encoder
from mmclr.models.clip.towers import Positions, initialise_blocks
from mmclr.models.config import ArrayConfig, ImageConfig
from mmclr.models.tower import Tower


class ArrayPatches(nn.Conv1d):
    """A linear map of each patch of an array; of a row, of each value by itself."""

    def __init__(self, a: ArrayConfig, width: int) -> None:
        super().__init__(a.channels, width, a.patch, a.patch, bias=False)
        self.row = a.row

    def forward(self, values: Tensor) -> Tensor:
        """Values [b, C, T] -> [b, P, width], without NaN."""
        if self.row:
            return values * self.weight[:, :, 0].T
        patches = values.unfold(2, self.kernel_size[0], self.kernel_size[0])  # [b, C, P, patch]
        return F.linear(patches.transpose(1, 2).flatten(2), self.weight.flatten(1))


class ArrayEmbeddings(nn.Module):
    """Patches, a class token first, and learnt positions."""

    def __init__(self, a: ArrayConfig, width: int) -> None:
        super().__init__()
        self.patch_embedding = ArrayPatches(a, width)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = Positions(a.tokens + 1, width)

    def forward(self, values: Tensor) -> Tensor:
        """Values [b, C, T] -> [b, 1 + P, width]."""
        positions = self.position_embedding()
        x = self.patch_embedding(values.nan_to_num(0.0)) + positions[1:]
        first = (self.class_embedding + positions[0]).expand(x.shape[0], 1, -1)
        return torch.cat([first.to(x.dtype), x], 1)


class ArrayTower(Tower):
    """A vision transformer over the patches of arrays; where an array has ended there is NaN, and nothing sees it.

    A patch that an array fills in part has zeros, the mean, behind the end. The feature of a short array does not
    depend on how far it is padded.
    """

    part = "image"

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        assert c.array is not None
        self.array = c.array
        self.embeddings = ArrayEmbeddings(c.array, c.width)
        self.pre_layrnorm = nn.LayerNorm(c.width, c.eps)
        self.encoder = Encoder(c.width, c.layers, c.heads, c.mlp, c.activation, c.eps)
        self.post_layernorm = nn.LayerNorm(c.width, c.eps)

    def blocks(self) -> Sequence[Block]:
        """Return the encoder's blocks."""
        return self.encoder.layers

    def filled(self, values: Tensor) -> Tensor:
        """Return which patches of values [..., C, T] have a step in them, bool [..., P]; of a row all have."""
        if self.array.row:
            return torch.ones_like(values[..., 0], dtype=torch.bool)
        return ~values[..., 0, :: self.array.patch].isnan()

    def forward(self, values: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised values [b, C, T], NaN behind an array's end -> the class token's feature [b, width]."""
        x, seen = self._embed(values, keep)
        return self.post_layernorm(self.encoder.pooled(x, seen=seen))

    def tokens(self, values: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised values [b, C, T] -> all tokens after the last block [b, 1 + P, width], the class token first.

        What the tokens of patches without a step say is to be ignored.
        """
        x, seen = self._embed(values, keep)
        return self.encoder(x, seen=seen)

    def _embed(self, values: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return tokens [b, 1 + p, width] and which are seen, bool [b, 1 + p]; of patches only those in keep [b, p]."""
        x, seen = self.pre_layrnorm(self.embeddings(values)), self.filled(values)
        if keep is not None:
            x = torch.cat([x[:, :1], x[:, 1:].gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))], 1)
            seen = seen.gather(1, keep)
        return x, F.pad(seen, (1, 0), value=True)


def initialise_arrays(tower: ArrayTower) -> None:
    """Draw all weights as CLIP does, but the patches' smaller, such that a usual patch is as large as its position.

    The norm behind them takes away how large their sum is: what is small beside its position stays small.
    """
    embeddings = tower.embeddings
    patch = embeddings.patch_embedding
    width = embeddings.class_embedding.numel()
    inputs = 1 if patch.row else patch.weight[0].numel()
    for weight in (embeddings.class_embedding, embeddings.position_embedding.weight):
        nn.init.normal_(weight, std=width**-0.5)
    nn.init.normal_(patch.weight, std=(width * inputs) ** -0.5)
    initialise_blocks(tower.encoder, 2 * len(tower.encoder.layers))
