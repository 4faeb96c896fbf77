"""Our towers: exactly the architecture and parameter names of transformers' CLIPModel, so export is a copy.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021,
arXiv 2103.00020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.models.clip.blocks import Block, Encoder, Packed
from mmclr.models.config import ImageConfig, TextConfig
from mmclr.models.tower import Tower


class Patches(nn.Conv2d):
    """A convolution whose stride is its size: one matmul over patches, and faster as such."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [b, C, H, W] -> [b, P, width]."""
        size = self.kernel_size[0]
        grid = pixels.unfold(2, size, size).unfold(3, size, size)
        return F.linear(grid.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2), self.weight.flatten(1))


class Positions(nn.Embedding):
    """One vector per place; all of them are read at once."""

    def forward(self) -> Tensor:  # type: ignore[override]
        """Return [places, width]."""
        return self.weight


class VisionEmbeddings(nn.Module):
    """Patches, a class token first, and learnt positions.

    Each weight is read in the forward of the module that has it, which is where ZeRO-3 puts it together.
    """

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        self.patch_embedding = Patches(c.channels, c.width, c.patch, c.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(c.width))
        self.position_embedding = Positions((c.size // c.patch) ** 2 + 1, c.width)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, C, H, W] -> [b, 1 + P, width]; of the P patches only those in keep [b, p] if given."""
        positions = self.position_embedding()
        x = self.patch_embedding(pixels) + positions[1:]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
        first = (self.class_embedding + positions[0]).expand(x.shape[0], 1, -1)
        return torch.cat([first.to(x.dtype), x], 1)


class VisionTower(Tower):
    """transformers' CLIPVisionTransformer (its name for the first norm is misspelt there too)."""

    part = "image"

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(c)
        self.pre_layrnorm = nn.LayerNorm(c.width, c.eps)
        self.encoder = Encoder(c.width, c.layers, c.heads, c.mlp, c.activation, c.eps)
        self.post_layernorm = nn.LayerNorm(c.width, c.eps)

    def blocks(self) -> Sequence[Block]:
        """Return the encoder's blocks."""
        return self.encoder.layers

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, C, H, W] -> the class token's feature [b, width]."""
        return self.post_layernorm(self.encoder.pooled(self.pre_layrnorm(self.embeddings(pixels, keep))))

    def tokens(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, C, H, W] -> all tokens after the last block [b, 1 + P, width], the class token first."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels, keep)))


class Words(nn.Embedding):
    """One vector per token of the vocabulary."""

    def forward(self, ids: Tensor | None = None) -> Tensor:
        """Ids [...] -> [..., width]; without ids all vectors [N, width]."""
        return self.weight if ids is None else super().forward(ids)


class TextEmbeddings(nn.Module):
    """Tokens and learnt positions."""

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.token_embedding = Words(c.vocab, c.width)
        self.position_embedding = nn.Embedding(c.context, c.width)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Ids [N] at positions [N] -> [N, width]."""
        return self.token_embedding(ids) + self.position_embedding(positions)


class TextTower(Tower):
    """transformers' CLIPTextTransformer. Causal and pooled at EOS, so padding can be left out exactly."""

    part = "text"

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(c)
        self.encoder = Encoder(c.width, c.layers, c.heads, c.mlp, c.activation, c.eps)
        self.final_layer_norm = nn.LayerNorm(c.width, c.eps)

    def blocks(self) -> Sequence[Block]:
        """Return the encoder's blocks."""
        return self.encoder.layers

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which the first lengths [n] are valid -> the feature at the last valid one [n, width]."""
        layout, ids, positions = Packed.pack(tokens, lengths)
        pooled = self.encoder.pooled(self.embeddings(ids, positions), layout)
        return self.final_layer_norm(layout.restore(pooled))

    def tokens(self, tokens: Tensor) -> Tensor:
        """Ids [n, L] -> all tokens' features [n, L, width]; what lies behind a row's end is to be ignored."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return self.final_layer_norm(self.encoder(self.embeddings(tokens, positions), causal=True))

    def packed(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Packed]:
        """Ids [n, L] of which the first lengths [n] are valid -> the features of these alone [N, width]."""
        layout, ids, positions = Packed.pack(tokens, lengths)
        return self.final_layer_norm(self.encoder(self.embeddings(ids, positions), layout=layout)), layout


def initialise_vision(tower: VisionTower) -> None:
    """Draw all weights as CLIP does: normal, with the standard deviations of its released code."""
    embeddings = tower.embeddings
    width = embeddings.class_embedding.numel()
    for weight in (embeddings.class_embedding, embeddings.position_embedding.weight):
        nn.init.normal_(weight, std=width**-0.5)
    nn.init.normal_(embeddings.patch_embedding.weight, std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
    initialise_blocks(tower.encoder, 2 * len(tower.encoder.layers))


def initialise_text(tower: TextTower) -> None:
    """Draw all weights as CLIP does."""
    nn.init.normal_(tower.embeddings.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.embeddings.position_embedding.weight, std=0.01)
    initialise_blocks(tower.encoder, 2 * len(tower.encoder.layers))


def initialise_blocks(module: nn.Module, branches: int) -> None:
    """Draw the linear layers of blocks that add up `branches` residual branches, which shrink with their number."""
    depth = branches**-0.5
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        width = layer.in_features
        std = {"out_proj": depth * width**-0.5, "fc1": (2 * width) ** -0.5, "fc2": depth * layer.out_features**-0.5}
        nn.init.normal_(layer.weight, std=std.get(name.rsplit(".", 1)[-1], width**-0.5))
        nn.init.zeros_(layer.bias)
