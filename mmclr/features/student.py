"""The model in training as a source of features."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from mmclr.models.two_tower import TwoTower

IMAGE, TEXT = {"image", "frozen_image"}, {"text", "texts", "frozen_text"}


class Student(nn.Module):
    """Computes image, text, texts, scale and bias: only those that somebody asked for.

    Where no frozen model is given, its own features without their gradient stand in for frozen_image and frozen_text.
    """

    provides = frozenset({"image", "text", "texts", "scale", "bias", "frozen_image", "frozen_text"})

    def __init__(self, model: TwoTower, patch_dropout: float = 0.0) -> None:
        """`patch_dropout` is the share of patches left out in training (FLIP, CVPR 2023, arXiv 2212.00794)."""
        super().__init__()
        self.model = model
        self.patch_dropout = patch_dropout

    def forward(self, batch: Any, wanted: Set[str]) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names that this source provides."""
        out: dict[str, Tensor] = {}
        if wanted & IMAGE:
            out["image"] = self.model.encode_image(self.model.normalise(batch.pixels), self._keep(batch))
        if wanted & TEXT:
            texts = self.model.encode_text(batch.tokens, batch.lengths)
            out["texts"] = texts.unflatten(0, (len(batch.weights), -1))  # captions of one picture stand together
            out["text"] = out["texts"][:, 0]
        out.update({f"frozen_{name}": out[name].detach() for name in ("image", "text") if f"frozen_{name}" in wanted})
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
        draw = torch.randint(1 << 62, ()).to(batch.index.device)  # the step's, the same on every rank
        number = batch.index[:, None] * patches + torch.arange(patches, device=batch.index.device)
        return _scramble(number + draw).argsort(1)[:, :kept]


def _scramble(x: Tensor) -> Tensor:
    """Return int64 numbers that look random (splitmix64, Steele et al., OOPSLA 2014): the same for the same x.

    A sample's draw then depends on its number and the step, not on the rank or row where it happens to be.
    """
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right as unsigned numbers do: torch's shift would copy the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
