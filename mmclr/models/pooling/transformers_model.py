"""The learnt pool of several images as a transformers model, for what a CLIPModel makes of each of them.

The weights have the names that they have in training. Exports hold a copy of this file, for machines without mmclr, so
it needs nothing but torch and transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel


class ImagePoolConfig(PreTrainedConfig):
    """`kind` is attention; `width` is that of the embeddings."""

    model_type = "mmclr_image_pool"

    def __init__(self, kind: str = "attention", width: int = 512, **rest: Any) -> None:
        self.kind, self.width = kind, width
        super().__init__(**rest)


class Attention(nn.Module):
    """Scores of embeddings: w . tanh(V u)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, max(1, width // 4), bias=False)
        self.score = nn.Linear(max(1, width // 4), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, k, width] -> [n, k]."""
        return self.score(torch.tanh(self.hidden(x)))[..., 0]


class ImagePoolModel(PreTrainedModel):
    """Features of k images of each item [n, k, width], and which are there [n, k] -> unit vectors [n, width]."""

    config_class = ImagePoolConfig

    def __init__(self, config: ImagePoolConfig) -> None:
        super().__init__(config)
        self.image_pool = Attention(config.width)
        self.post_init()

    def forward(self, image_embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax of the scores of those that are there, at least one, weighs their unit vectors; mask None: all are.

        Features may have any length, and what stands where no image is may be anything finite.
        """
        x = F.normalize(image_embeds, dim=-1)
        scores = self.image_pool(x)
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -torch.inf)
        return F.normalize((scores.softmax(1)[..., None] * x).sum(1), dim=-1)


if __name__ == "mmclr.models.pooling.transformers_model":  # and not a copy of it
    AutoConfig.register(ImagePoolConfig.model_type, ImagePoolConfig)
    AutoModel.register(ImagePoolConfig, ImagePoolModel)
