"""The model in training, the provider of most features."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmclr import sample_random, vocabulary
from mmclr.features import towers
from mmclr.features.provider import Provider
from mmclr.models.clip.arrays import ArrayTower
from mmclr.models.clip.towers import VisionTower
from mmclr.models.two_tower import TwoTower

CAPTION = {"caption_states", "caption_words"}
FROZEN = vocabulary.names(provider="frozen")


class Student(Provider, key="student", made_by="model"):
    """Computes image, text, pixel sets, scale, what the captioner gives, and so on: only what somebody asked for.

    Where no frozen model is given, its own features without their gradient stand in for frozen_image, frozen_text, ...
    """

    def __init__(
        self,
        model: TwoTower,
        patch_dropout: float = 0.0,
        sets: Collection[str] = (),
        text_views: int = 0,
        several: bool = False,
        text_sources: int = 0,
    ) -> None:
        """`patch_dropout` is the share of patches left out in training (FLIP, CVPR 2023, arXiv 2212.00794) for now.

        sets are the names of the pixel sets in a batch, text_views is how many further forms of a text there are, and
        text_sources how many sources of texts; several: samples may have several images.
        """
        self.model = model
        self.patch_dropout, self.several = patch_dropout, several
        self.mixes = any(isinstance(module, _BatchNorm) for module in model.modules())  # a row's features need others
        self.provides = {"image", "text", "texts", "scale", "bias"}
        self.provides |= CAPTION if model.captioner is not None else set()
        self.provides |= vocabulary.of_sets(sets, self.key, dense=isinstance(model.vision_model, VisionTower))
        self.provides |= {name for name, n in (("text_views", text_views), ("text_sources", text_sources)) if n}
        self.provides |= {name for name in FROZEN if name.removeprefix("frozen_") in self.provides}

    def forward(
        self, batch: Any, wanted: Set[str], found: Mapping[str, Tensor], progress: float
    ) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names, which are among those that it provides.

        Blank rows are seen like others, unless a batch norm would take them for samples: then their features are 0.
        """
        real = batch.real if self.mixes and self.training else None
        if real is None or bool(real.all()) or not bool(real.any()):
            return self._say(batch, wanted)
        at, found = real.nonzero()[:, 0], {}
        for name, x in self._say(batch.take(at), wanted).items():
            rows = vocabulary.FEATURES[name].per_sample
            found[name] = x.new_zeros(len(real), *x.shape[1:]).index_copy(0, at, x) if rows else x
        return found

    def _say(self, batch: Any, wanted: Set[str]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        bare = {name.removeprefix("frozen_") for name in wanted}
        keep = self._keep(batch) if bare & towers.IMAGES or "caption_states" in wanted else None
        if "caption_states" in wanted:  # one pass through the towers gives all
            pixels, kept = self.model.normalise(batch.pixels), None if keep is None else keep[:, 0]
            out["image"], texts, states = self.model.encode_pairs(pixels, batch.tokens, batch.lengths, kept)
            out["texts"], out["caption_states"] = (x.unflatten(0, (len(batch.weights), -1)) for x in (texts, states))
            out["text"] = out["texts"][:, 0]
            if batch.more is not None:  # captions are of the first image alone
                del out["image"]
        if bare & towers.IMAGES - out.keys():
            out.update(towers.see(self.model, batch, bare - out.keys(), keep))
        if bare & towers.TEXTS - out.keys():
            out.update(towers.read(self.model, batch, bare - out.keys()))
        out.update({name: out[name.removeprefix("frozen_")].detach() for name in FROZEN & wanted})
        if "caption_words" in wanted:
            out["caption_words"] = self.model.words()
        if "scale" in wanted:
            out["scale"] = self.model.scale
        if "bias" in wanted:
            assert self.model.logit_bias is not None, "the model was built without a logit bias"
            out["bias"] = self.model.logit_bias.float()
        return out

    def freeze_unasked(self, taught: Set[str]) -> None:
        """Freeze what gets no gradient, so that no process waits for it. A loss reaches the features `taught`."""
        model, told = self.model, "caption_states" in taught
        unasked: list[nn.Module | None] = [] if told else [model.captioner]
        if not taught & towers.IMAGES:
            tower = model.vision_model.post_layernorm if told else model.vision_model
            unasked += [tower, model.visual_projection]  # type: ignore[list-item]
        elif taught & towers.IMAGES <= towers.BELOW:
            unasked += [model.visual_projection]
        if not taught & towers.TEXTS:
            unasked += [model.text_projection, None if told else model.text_model]
        if not (self.several and "image" in taught):
            unasked += [model.image_pool]
        for module in unasked:
            if module is not None:
                module.requires_grad_(False)
        if "scale" not in taught:
            model.logit_scale.requires_grad_(False)

    def _keep(self, batch: Any) -> Tensor | None:
        """Draw the patches to keep [b, n, p]: another random subset of each of `towers.places`.

        What is drawn for image and views depends on no other pixel set: those have the numbers below 0.
        """
        if not (self.training and self.patch_dropout):
            return None
        patches = self.model.config.image.patches
        kept = max(1, round(patches * (1 - self.patch_dropout)))
        first, every = 1 + batch.counts.get("views", 0), sum(batch.counts.values())
        number = _numbered(batch.index, first)
        if every > first:
            number = torch.cat([number, ~_numbered(batch.index, every - first)], 1)
        number = number[..., None] * patches + torch.arange(patches, device=batch.index.device)
        order = sample_random.scramble(number + sample_random.seed(number))
        tower = self.model.vision_model
        if isinstance(tower, ArrayTower):  # what lies behind an array's end is left out before anything else
            seen = torch.cat([batch.seen(name) for name in batch.counts], 1)
            order = order.masked_fill(~tower.filled(seen), torch.iinfo(order.dtype).max)
        return order.argsort(-1)[..., :kept]


def _numbered(index: Tensor, count: int) -> Tensor:
    """Return numbers of `count` things of each sample, [b, count], none of them twice."""
    return index[:, None] * count + torch.arange(count, device=index.device)
