"""The model in training as a source of features."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from mmclr.models.two_tower import TwoTower

IMAGE, TEXT = {"image", "frozen_image"}, {"text", "texts", "frozen_text"}
CAPTION = {"caption_states", "caption_words"}


class Student(nn.Module):
    """Computes image, text, texts, scale, bias and what the captioner gives: only those that somebody asked for.

    Where no frozen model is given, its own features without their gradient stand in for frozen_image and frozen_text.
    """

    def __init__(self, model: TwoTower, patch_dropout: float = 0.0) -> None:
        """`patch_dropout` is the share of patches left out in training (FLIP, CVPR 2023, arXiv 2212.00794)."""
        super().__init__()
        self.model = model
        self.patch_dropout = patch_dropout
        self.provides = IMAGE | TEXT | {"scale", "bias"} | (CAPTION if model.captioner is not None else set())

    def forward(self, batch: Any, wanted: Set[str]) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names that this source provides."""
        out: dict[str, Tensor] = {}
        if "caption_states" in wanted:  # one pass through the towers gives all
            pixels, keep = self.model.normalise(batch.pixels), self._keep(batch)
            out["image"], texts, states = self.model.encode_pairs(pixels, batch.tokens, batch.lengths, keep)
            out["texts"], out["caption_states"] = (x.unflatten(0, (len(batch.weights), -1)) for x in (texts, states))
        if wanted & IMAGE - out.keys():
            out["image"] = self.model.encode_image(self.model.normalise(batch.pixels), self._keep(batch))
        if wanted & TEXT - out.keys():
            texts = self.model.encode_text(batch.tokens, batch.lengths)
            out["texts"] = texts.unflatten(0, (len(batch.weights), -1))  # captions of one picture stand together
        if "texts" in out:
            out["text"] = out["texts"][:, 0]
        out.update({f"frozen_{name}": out[name].detach() for name in ("image", "text") if f"frozen_{name}" in wanted})
        if "caption_words" in wanted:
            out["caption_words"] = self.model.words()
        if "scale" in wanted:
            out["scale"] = self.model.scale
        if "bias" in wanted:
            assert self.model.logit_bias is not None, "the model was built without a logit bias"
            out["bias"] = self.model.logit_bias.float()
        return out

    def freeze_unasked(self, wanted: Set[str]) -> None:
        """Freeze what gets no gradient, so that no process waits for it."""
        model, told = self.model, "caption_states" in wanted
        unasked: list[nn.Module | None] = [] if told else [model.captioner]
        if "image" not in wanted:
            tower = model.vision_model.post_layernorm if told else model.vision_model
            unasked += [tower, model.visual_projection]  # type: ignore[list-item]
        if not wanted & {"text", "texts"}:
            unasked += [model.text_projection, None if told else model.text_model]
        for module in unasked:
            if module is not None:
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
