"""A model of arrays and texts as a transformers model.

The weights have the names that they have in training. Exports hold a copy of this file, for machines without mmclr, so
it needs nothing but torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.generic import ModelOutput

ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class ArraysConfig(PreTrainedConfig):
    """`mmclr` is the tree of a model's config in mmclr; `text` that of a CLIPTextConfig; `bias` whether it has one."""

    model_type = "mmclr_arrays"

    def __init__(self, mmclr: Any = None, text: Any = None, bias: bool = False, **rest: Any) -> None:
        self.mmclr, self.text, self.bias = mmclr or {}, text or {}, bias
        super().__init__(**rest)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens that are seen."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[n, L, width], of which seen [n, L] -> [n, L, width]."""
        layers = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        return self.out_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """fc1, activation, fc2."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(c["width"], c["eps"]) for _ in range(2))
        self.self_attn = Attention(c["width"], c["heads"])
        self.mlp = MLP(c["width"], c["mlp"], c["activation"])

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[n, L, width] -> [n, L, width]."""
        x = x + self.self_attn(self.layer_norm1(x), seen)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of blocks."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(c) for _ in range(c["layers"]))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[n, L, width] -> [n, L, width]."""
        for layer in self.layers:
            x = layer(x, seen)
        return x


class ArrayEmbeddings(nn.Module):
    """A class token, then patches of steps (of a row, values), with their positions."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        a = c["array"]
        self.row = a["length"] == 1
        self.patch_embedding = nn.Conv1d(a["channels"], c["width"], a["patch"], a["patch"], bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(c["width"]))
        tokens = a["channels"] if self.row else a["length"] // a["patch"]
        self.position_embedding = nn.Embedding(tokens + 1, c["width"])

    def forward(self, values: Tensor) -> Tensor:
        """[n, C, T] -> [n, 1 + P, width]."""
        x = values.nan_to_num(0.0)
        if self.row:
            patches = x * self.patch_embedding.weight[:, :, 0].T
        else:
            patches = self.patch_embedding(x).transpose(1, 2)
        first = self.class_embedding.expand(len(values), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class ArrayTower(nn.Module):
    """A vision transformer over the patches of arrays; no token looks at NaN."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.patch = c["array"]["patch"]
        self.embeddings = ArrayEmbeddings(c)
        self.pre_layrnorm = nn.LayerNorm(c["width"], c["eps"])
        self.encoder = Encoder(c)
        self.post_layernorm = nn.LayerNorm(c["width"], c["eps"])

    def forward(self, values: Tensor) -> Tensor:
        """[n, C, T] -> [n, width]."""
        x = self.pre_layrnorm(self.embeddings(values))
        if self.embeddings.row:
            seen = torch.ones_like(x[..., 0], dtype=torch.bool)
        else:
            seen = F.pad(~values[:, 0, :: self.patch].isnan(), (1, 0), value=True)
        return self.post_layernorm(self.encoder(x, seen)[:, 0])


@dataclass
class ArraysOutput(ModelOutput):
    """Unit-norm embeddings [n, D], [m, D], and scale * their cosines (and the bias, if it has one): [n, m], [m, n]."""

    logits_per_array: Tensor | None = None
    logits_per_text: Tensor | None = None
    array_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class ArraysModel(PreTrainedModel):
    """model(array_values=model.prepare([array, ...]), **tokenizer(texts)) gives logits, as a CLIPModel does."""

    config_class = ArraysConfig
    main_input_name = "array_values"

    def __init__(self, config: ArraysConfig) -> None:
        super().__init__(config)
        image, embed = config.mmclr["image"], config.mmclr["embed"]
        text = CLIPTextModelWithProjection(CLIPTextConfig(**{**config.text, "projection_dim": embed}))
        self.vision_model = ArrayTower(image)
        self.visual_projection = nn.Linear(image["width"], embed, bias=False)
        self.text_model, self.text_projection = text.text_model, text.text_projection
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(())) if config.bias else None
        self.post_init()

    def prepare(self, arrays: Sequence[Any]) -> Tensor:
        """Return arrays [T, C] (of one channel also [T]; rows [C]) as array_values [n, C, length].

        Mean and standard deviation of each channel are taken out; of a longer array the middle is seen, and behind the
        end of a shorter one there is NaN.
        """
        image: dict[str, Any] = self.config.mmclr["image"]
        channels, length = image["array"]["channels"], image["array"]["length"]
        out = torch.full((len(arrays), length, channels), torch.nan)
        for number, array in enumerate(arrays):
            x = torch.as_tensor(array).float()
            if x.ndim == 1:
                x = x[None] if length == 1 else x[:, None]
            if x.ndim != 2 or x.shape[1] != channels or not len(x):
                raise ValueError(f"array {number} has the shape {list(x.shape)}; [time, {channels}] is asked for")
            start = max(0, (len(x) - length) // 2)
            x = x[start : start + length]
            out[number, : len(x)] = x
        return ((out - torch.tensor(image["mean"])) / torch.tensor(image["std"])).transpose(1, 2).to(self.device)

    def get_array_features(self, array_values: Tensor) -> Tensor:
        """Return embeddings [n, D] of what `prepare` made, not yet of unit norm."""
        return self.visual_projection(self.vision_model(array_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return embeddings [m, D] of token ids, not yet of unit norm."""
        read = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return self.text_projection(read)

    def forward(
        self,
        array_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ArraysOutput:
        """Return the embeddings of what is given, and logits where both are."""
        arrays = F.normalize(self.get_array_features(array_values), dim=-1) if array_values is not None else None
        texts = (
            F.normalize(self.get_text_features(input_ids, attention_mask), dim=-1) if input_ids is not None else None
        )
        if arrays is None or texts is None:
            return ArraysOutput(array_embeds=arrays, text_embeds=texts)
        scale = self.logit_scale.exp().clamp(max=self.config.mmclr["max_scale"])
        logits = scale * arrays @ texts.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return ArraysOutput(logits, logits.T, arrays, texts)


if __name__ == "mmclr.models.clip.transformers_arrays":  # and not a copy of it
    AutoConfig.register(ArraysConfig.model_type, ArraysConfig)
    AutoModel.register(ArraysConfig, ArraysModel)
