"""The model in training as a source of features."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from mmclr.models.two_tower import TwoTower


class Student(nn.Module):
    """Computes image, text, texts, scale and bias: only those that somebody asked for."""

    provides = frozenset({"image", "text", "texts", "scale", "bias"})

    def __init__(self, model: TwoTower, patch_dropout: float = 0.0) -> None:
        """`patch_dropout` is the share of patches left out in training (FLIP, CVPR 2023, arXiv 2212.00794)."""
        super().__init__()
        self.model = model
        self.patch_dropout = patch_dropout

    def forward(self, batch: Any, wanted: Set[str]) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names that this source provides."""
        out: dict[str, Tensor] = {}
        if "image" in wanted:
            out["image"] = self.model.encode_image(self.model.normalise(batch.pixels), self._keep(batch))
        if wanted & {"text", "texts"}:
            texts = self.model.encode_text(batch.tokens, batch.lengths)
            out["texts"] = texts.unflatten(0, (len(batch.weights), -1))  # captions of one picture stand together
            out["text"] = out["texts"][:, 0]
        if "scale" in wanted:
            out["scale"] = self.model.scale
        if "bias" in wanted:
            assert self.model.logit_bias is not None, "the model was built without a logit bias"
            out["bias"] = self.model.logit_bias.float()
        return out

    def freeze_unasked(self, wanted: Set[str]) -> None:
        """Freeze what gets no gradient, so that no process waits for it."""
        model = self.model
        unasked = [
            [] if "image" in wanted else [model.vision_model, model.visual_projection],
            [] if wanted & {"text", "texts"} else [model.text_model, model.text_projection],
        ]
        for module in (m for modules in unasked for m in modules):
            module.requires_grad_(False)
        if "scale" not in wanted:
            model.logit_scale.requires_grad_(False)

    def _keep(self, batch: Any) -> Tensor | None:
        """Draw the patches to keep [b, p]: a different random subset per sample."""
        if not (self.training and self.patch_dropout):
            return None
        config = self.model.config.image
        patches = (config.size // config.patch) ** 2
        kept = max(1, round(patches * (1 - self.patch_dropout)))
        order = torch.rand(len(batch.weights), patches, device=batch.pixels.device).argsort(1)
        return order[:, :kept]
