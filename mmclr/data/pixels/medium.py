"""The contract of the image side of a sample: from the bytes of a member to the numbers of a batch.

A `Medium` is made once, by `choose`, from what the model sees and how the data are read. Loader, evaluations, encoder,
doctor and tools hold one, and none of them knows which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmclr.data.random import Words

Whole = Any  # a decoded image as its medium keeps it, from which views are cut


class Arrays(Protocol):
    """The part of a model's config on arrays in place of images (`model.image.array`)."""

    @property
    def channels(self) -> int:
        """Values of a step, or of a row."""

    @property
    def length(self) -> int:
        """Steps that the model sees; 1: rows."""


class Side(Protocol):
    """The part of a model's config on its image side."""

    @property
    def size(self) -> int:
        """Pixels a side."""

    @property
    def resize(self) -> Literal["crop", "squash"]:
        """In evaluations: the short side to size and the middle of it, or both sides."""

    @property
    def resample(self) -> Literal["bicubic", "bilinear"]:
        """In evaluations."""

    @property
    def mean(self) -> Sequence[float]:
        """Of each channel, taken out by the model."""

    @property
    def std(self) -> Sequence[float]:
        """Of each channel, by which the model divides."""

    @property
    def array(self) -> Arrays | None:
        """Arrays in place of images; None for images."""

    @property
    def channels(self) -> int:
        """Bands of an image."""

    @property
    def intensity(self) -> Mapping[str, Any] | None:
        """The way of numbers to [0, 1], as `Intensity.tree` has it; None for the range of their dtype."""


class Opened(Protocol):
    """The image of one sample, of which no more than the header need have been read."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""

    @property
    def format(self) -> str:
        """The name of its format."""


class Drawn(Protocol):
    """The draws of one view of one image."""

    def shrink(self, size: int) -> float:
        """Return by which factor what it cuts out is larger than `size`."""

    def place(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom of the view in shares of an image of `size`."""


class Medium(ABC):
    """The image side of samples of one kind. All draws are functions of the keys; nothing in it changes."""

    members: tuple[str, ...]  # extensions that hold an image: of those that a sample has, the first is taken
    beside: tuple[str, ...] = ()  # extensions of further members that `open` looks into
    size: int  # pixels a side of a view
    shape: tuple[int, ...]  # of a view, channels last
    dtype: type[np.generic]  # of its numbers
    augments: Sequence[Any] = ()  # that views are drawn with, the image's first
    note: str = ""  # what else decides on the numbers of `plain`, beside size, resize, resample: for keys of caches

    @abstractmethod
    def open(self, data: bytes, beside: Mapping[str, bytes] | None = None) -> Opened:
        """Read the header of a member; `beside` are the sample's members. Raises Fault."""

    def file(self, path: Path) -> Opened:
        """Read the header of a file; `open` looks into files beside it, KEY.json of KEY.tif. Raises Fault, OSError."""
        return self.open(path.read_bytes(), self.lying_beside(path))

    def lying_beside(self, path: Path) -> dict[str, bytes]:
        """Return the files beside an image that `open` looks into, by extension."""
        files = {name: path.with_suffix(f".{name}") for name in self.beside}
        return {name: file.read_bytes() for name, file in files.items() if file.is_file()}

    @abstractmethod
    def given(self, value: Any) -> Opened:
        """Take an image that lies in memory: of Pillow, or an array. Raises ValueError where it is none."""

    @abstractmethod
    def draw(self, augment: Any, sizes: NDArray[np.int64], keys: Words) -> Sequence[Drawn]:
        """Draw what happens to images of `sizes` [b, 2] (width, height); keys [b] tell them apart.

        `augment` is one of `augments`.
        """

    @abstractmethod
    def decode(self, opened: Any, shrink: float = 1.0) -> Whole:
        """Decode, smaller by at most `shrink` where the format can. Raises Fault."""

    @abstractmethod
    def cut(self, whole: Whole, drawn: Any) -> NDArray[Any]:
        """Return the view of a decoded image that was drawn, of `shape` and `dtype`."""

    @abstractmethod
    def plain(self, opened: Any) -> NDArray[Any]:
        """Return what an evaluation sees of an image, of `shape` and `dtype`: nothing is random. Raises Fault."""

    @abstractmethod
    def bytes_of(self, whole: Whole) -> int:
        """Return the bytes that a decoded image takes in memory, about."""

    @abstractmethod
    def show(self, opened: Any, side: int) -> Image.Image:
        """Return an RGB image for people, at most `side` pixels wide and high. Raises Fault."""

    def batched(self, rows: NDArray[Any]) -> Tensor:
        """Return views [..., *shape] as the model takes them: [..., C, S, S], in memory channels last."""
        return torch.from_numpy(rows).movedim(-1, -3)
