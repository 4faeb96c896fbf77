"""The captioning decoder: blocks on top of the causal text tower that also look at the image.

Yu et al., CoCa: Contrastive Captioners are Image-Text Foundation Models, TMLR 2022, arXiv 2205.01917. Unlike there,
texts have no class token behind them and images no contrastive pooler: both encoders stay a plain CLIPModel.
This form is for training, on packed texts; `generation` has the same decoder with a key and value cache.

In a model's folder it lies in captioner/, so that what is beside it is what it would be without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.config import check, to_tree
from mmclr.models.clip.blocks import MLP, Block, Packed, Recomputable
from mmclr.models.clip.towers import Words, initialise_blocks
from mmclr.models.config import CaptionerConfig, ModelConfig, TextConfig
from mmclr.models.formats.weights import read_weights, write_weights
from mmclr.models.tower import Tower
from mmclr.storage.json_file import read_json

FOLDER, PREFIX = "captioner", "captioner."


class Memory(nn.Module):
    """The decoder's view of an image: its tokens (the class token, too), or what learnt queries take from them."""

    def __init__(self, c: CaptionerConfig, text: TextConfig, seen: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(seen, text.eps)
        self.queries = nn.Parameter(torch.empty(c.queries, text.width)) if c.queries else None
        self.attention = CrossAttention(text.width, text.heads, seen) if c.queries else None
        self.final_layer_norm = nn.LayerNorm(text.width, text.eps) if c.queries else None

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, 1 + P, seen] -> [b, 1 + P, seen], or [b, queries, width]."""
        tokens = self.layer_norm(tokens)
        if self.queries is None or self.attention is None or self.final_layer_norm is None:
            return tokens
        return self.final_layer_norm(self.attention(self.queries.expand(len(tokens), -1, -1), tokens))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to what is seen."""

    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.v_proj = nn.Linear(seen, width), nn.Linear(seen, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Each row of x [n, L, width] to its row of seen [n, P, seen] -> [n, L, width]."""
        return self.out_proj(self._attend(self.q_proj(x), self.k_proj(seen), self.v_proj(seen)))

    def packed(self, x: Tensor, seen: Tensor, layout: Packed, image: Tensor) -> Tensor:
        """Packed x [N, width], the i-th sequence to seen[image[i]] -> [N, width]."""
        k, v = self.k_proj(seen), self.v_proj(seen)
        counts = [count for count, _ in layout.groups]
        rows = [
            self._attend(q, k[which], v[which]).flatten(0, 1)
            for q, which in zip(layout.split(self.q_proj(x)), image.split(counts))
        ]
        return self.out_proj(torch.cat(rows))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Layer(Recomputable):
    """A block of the text tower's kind, then attention to the image and a second MLP, each added to its input."""

    def __init__(self, text: TextConfig, seen: int) -> None:
        super().__init__()
        self.block = Block(text.width, text.heads, text.mlp, text.activation, text.eps)
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(text.width, text.eps) for _ in range(2))
        self.cross_attn = CrossAttention(text.width, text.heads, seen)
        self.mlp = MLP(text.width, text.mlp, text.activation)

    def compute(self, x: Tensor, seen: Tensor, layout: Packed, image: Tensor) -> Tensor:
        """Packed tokens [N, width] -> [N, width]; the i-th sequence looks at seen[image[i]]."""
        x = self.block(x, layout=layout)
        x = x + self.cross_attn.packed(self.layer_norm1(x), seen, layout, image)
        return x + self.mlp(self.layer_norm2(x))


class Captioner(Tower):
    """Causal text states and an image's tokens -> states from which the next tokens are told."""

    part = "captioner"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c, text = config.captioner, config.text
        assert c is not None
        seen = text.width if c.queries else config.image.width
        self.memory = Memory(c, text, config.image.width)
        self.layers: Sequence[Layer] = nn.ModuleList(Layer(text, seen) for _ in range(c.layers))  # type: ignore[assignment]
        self.final_layer_norm = nn.LayerNorm(text.width, text.eps)
        self.words = None if c.tied else Words(text.vocab, text.width)
        initialise_blocks(self, 3 * c.layers)
        for vectors in (self.memory.queries, self.words.weight if self.words else None):
            if vectors is not None:
                nn.init.normal_(vectors, std=0.02)

    def blocks(self) -> Sequence[nn.Module]:
        """Return the decoder's layers."""
        return self.layers

    def stages(self) -> Sequence[nn.Module]:
        """Return nothing: layer decay goes by the depth in the towers beneath."""
        return []

    @property
    def called(self) -> str:
        """The name in messages."""
        return "the captioner"

    def forward(self, read: Tensor, layout: Packed, tokens: Tensor) -> Tensor:
        """States of packed texts [N, width] and images' tokens [b, 1 + P, seen] -> states [N, width].

        Texts are in groups of equal size, one per image: of n texts the i-th belongs to image i * b // n.
        """
        image = layout.order * len(tokens) // len(layout.order)
        seen = self.memory(tokens)
        for layer in self.layers:
            read = layer(read, seen, layout, image)
        return self.final_layer_norm(read)


def save(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Write the captioner of a model with these weights into its own folder, if it has one."""
    if config.captioner is None:
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    tree = {"model_type": "mmclr_captioner", "captioner": to_tree(config.captioner)}
    (folder / FOLDER / "config.json").write_text(json.dumps(tree, indent=2))
    write_weights(only(weights), folder / FOLDER / "model.safetensors")


def read_config(folder: Path) -> CaptionerConfig | None:
    """Return the config of a model folder's captioner; None where it has none."""
    path = folder / FOLDER / "config.json"
    return check(CaptionerConfig, read_json(path)["captioner"], str(path)) if path.is_file() else None


def read(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a model folder's captioner, {} where it has none; an export has the towers' beside them."""
    if read_config(folder) is None:
        return {}
    return only(read_weights(folder / FOLDER / "model.safetensors"))


def only(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the captioner's own among a model's weights."""
    return {name: value for name, value in weights.items() if name.startswith(PREFIX)}
