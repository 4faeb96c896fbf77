"""A model that does not learn, a provider of reference features."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import vocabulary
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.features import towers
from mmclr.features.provider import Provider
from mmclr.models.config import ImageConfig
from mmclr.models.formats import find
from mmclr.models.two_tower import TwoTower

PREFIX = "frozen_"


class Frozen(Provider, key="frozen", made_by="teacher"):
    """Computes frozen_image, frozen_text and what it makes of pixel sets, with the weights of a model folder."""

    def __init__(self, folder: str, tokenizer: Tokenizer, image: ImageConfig, sets: Collection[str] = ()) -> None:
        """Open `folder`, or what a run's folder or a name stands for. `sets` are the pixel sets in a batch.

        It may see images of another size, but of the same channels and intensity as `image`, those of the model in
        training; its tokens must be that model's. Raises UserError.
        """
        self.provides = {"frozen_image", "frozen_text"} | vocabulary.of_sets(sets, self.key)
        found = find.find(folder)
        self.model = TwoTower.load(found).requires_grad_(False)
        self.same_tokens = Tokenizer.load(found).backend.get_vocab() == tokenizer.backend.get_vocab()
        self.folder, self.image_size = folder, image.size
        own = self.model.config.image
        for what in ("channels", "intensity", "array"):
            if (there := getattr(own, what)) != (here := getattr(image, what)):
                raise UserError(
                    f"teacher: {folder} sees other images than the model in training: its image.{what} is {there}, "
                    f"here {here}; take a teacher that was trained on such images"
                )

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, batch: Any, wanted: Set[str], found: Mapping[str, Tensor], progress: float
    ) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names, which are among those that it provides."""
        out: dict[str, Tensor] = {}
        images = {name.removeprefix(PREFIX) for name in wanted} & towers.IMAGES
        if images:
            seen = towers.see(self.model, batch, images, prepare=self._seen)
            out.update({PREFIX + name: x for name, x in seen.items()})
        if "frozen_text" in wanted:
            if not self.same_tokens:
                raise UserError(
                    f"teacher: the tokenizer of {self.folder} is not that of the model in training, so it cannot read "
                    f"the captions; set tokenizer: {self.folder}"
                )
            texts = self.model.encode_text(batch.tokens, batch.lengths)
            out["frozen_text"] = texts.unflatten(0, (len(batch.weights), -1))[:, 0]
        return out

    def _seen(self, pixels: Tensor) -> Tensor:
        """Return pixels [b, C, H, W] normalised, and in the model's own size."""
        size, whole = self.model.config.image.size, 1 if pixels.is_floating_point() else 255
        if size == self.image_size or self.model.config.image.array is not None:
            return self.model.normalise(pixels)
        resized = F.interpolate(pixels.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
        return self.model.normalise(resized.clamp(0, whole), whole)
