"""Photographs: RGB of 8 bits, which is what every format of Pillow's becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmclr.data.pixels import augment
from mmclr.data.pixels.augment import Augment, Canvas, Recipe
from mmclr.data.pixels.decode import MAX_PIXELS, Colour, EncodedImage, flatten, upright
from mmclr.data.pixels.medium import Medium, Opened
from mmclr.data.pixels.plain import plain
from mmclr.data.random import Words
from mmclr.data.shards.shards import IMAGES

WHITE = (255, 255, 255)


class InMemory:
    """An image of Pillow's, upright, as if it had been opened."""

    format = "none"

    def __init__(self, image: Image.Image) -> None:
        self._image = upright(image)
        self.size = self._image.size

    def pixels(self, background: Colour, shrink: float = 1.0) -> Image.Image:
        """Return it as RGB."""
        return flatten(self._image, background)


class Photo(Medium):
    """Views are uint8 [S, S, 3]."""

    members = IMAGES
    dtype = np.uint8

    def __init__(
        self,
        size: int,
        *,
        resize: Literal["crop", "squash"] = "crop",
        resample: str = "bicubic",  # in `plain`
        cut_resample: str = "bicubic",  # in `cut`
        background: Colour = WHITE,  # shows through transparent pixels and beyond the border
        max_pixels: int = MAX_PIXELS,
        turbo: bool = False,
        augments: Sequence[Augment] = (),  # that views are drawn with
    ) -> None:
        self.size, self.shape = size, (size, size, 3)
        self.resize, self.resample, self.cut_resample = resize, resample, cut_resample
        self.background, self.max_pixels, self.turbo = background, max_pixels, turbo
        self.augments = tuple(augments) or (Augment(),)

    def open(self, data: bytes, beside: Mapping[str, bytes] | None = None) -> EncodedImage:
        """Read the header. Raises Fault."""
        return EncodedImage(data, self.max_pixels, self.turbo)

    def given(self, value: Any) -> Opened:
        """Take an image of Pillow, or uint8 [H, W, 3], [3, H, W] or [H, W]. Raises ValueError."""
        if isinstance(value, Image.Image):
            return InMemory(value)
        array = np.asarray(value)
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise ValueError(f"{array.dtype} of shape {list(array.shape)}; give uint8 [H, W, 3], [3, H, W] or [H, W]")
        if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
            array = array.transpose(1, 2, 0)
        return InMemory(Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array))

    def draw(self, how: Augment, sizes: NDArray[np.int64], keys: Words) -> list[Recipe]:
        """Draw crops and colours."""
        return augment.draw(how, sizes, keys, self.size)

    def decode(self, opened: EncodedImage, shrink: float = 1.0) -> Canvas:
        """Decode onto a canvas that all boxes of the augmentations lie on. Raises Fault."""
        image = opened.pixels(self.background, shrink)
        factor = max(1, round(opened.size[0] / image.width))
        return augment.canvas(image, factor, self.augments, self.background)

    def cut(self, whole: Canvas, drawn: Recipe) -> NDArray[Any]:
        """Return the view, uint8 [S, S, 3]."""
        return np.frombuffer(augment.cut(whole, drawn, self.size, self.cut_resample), np.uint8).reshape(self.shape)

    def plain(self, opened: EncodedImage) -> NDArray[Any]:
        """Return uint8 [S, S, 3], to the bit as open_clip evaluates.

        No reduced decode and no other resampling here: both change numbers in the third digit. Raises Fault.
        """
        return np.asarray(plain(opened.pixels(self.background), self.size, self.resample, self.resize))

    def bytes_of(self, whole: Canvas) -> int:
        """Return the bytes of a canvas: Pillow keeps RGB in 4."""
        return 4 * whole.image.width * whole.image.height

    def show(self, opened: EncodedImage, side: int) -> Image.Image:
        """Return it smaller. Raises Fault."""
        image = opened.pixels(self.background, min(opened.size) / side)
        image.thumbnail((side, side))
        return image
