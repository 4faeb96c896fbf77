"""The contract of a head: a module between an embedding and an objective, in training and, if wanted, in use."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import dataclass_transform

from mmclr import plugins
from mmclr.config import config

HEADS: dict[str, type[HeadConfig]] = {}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class HeadConfig:
    """A kind of head: what a config says of it, and how one is made. A subclass is a config, registered by its key."""

    key: ClassVar[str]

    def __init_subclass__(cls, key: str) -> None:
        super().__init_subclass__()
        cls.key = key
        plugins.register("head", HEADS, key, config(cls))

    def make(self, width: int) -> Head:
        """Return the head for embeddings of `width` features."""
        raise NotImplementedError


class Head(nn.Module):
    """Maps embeddings of a side, "image" or "text", to the unit vectors that an objective compares.

    `width` is how many features these have. In training `forward` sees all rows of a global batch on all ranks; in
    evaluation mode each row is mapped for itself.
    """

    width: int

    def forward(self, x: Tensor, side: str, weights: Tensor | None = None) -> Tensor:
        """Embeddings [n, ..., D] -> unit vectors [n, ..., width]; rows count by weights [n] in what is averaged."""
        raise NotImplementedError

    def matrix(self, side: str) -> Tensor | None:
        """Return the linear map [width, D] that this is up to the length of the vectors, or None."""
        return None

    def of(self, side: str) -> nn.Module | None:
        """Return the part that maps this side: an attribute of its name, or the image's where both share it."""
        own: nn.Module | None = getattr(self, side, None)
        return own if own is not None else getattr(self, "image", None)

    def after_step(self) -> None:
        """Take in what the last forward found; called after an update that was made."""
