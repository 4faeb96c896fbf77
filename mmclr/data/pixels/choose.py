"""Which medium a model and its data ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmclr.data.pixels.array import Array
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.medium import Medium, Side
from mmclr.data.pixels.photo import Photo
from mmclr.data.settings import DataConfig


@dataclass(frozen=True)
class Square:
    """An image side of photographs that no model's config describes."""

    size: int
    resize: Literal["crop", "squash"] = "crop"
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    array: None = None


def choose(image: Side | int, data: DataConfig | None = None, max_pixels: int = MAX_PIXELS) -> Medium:
    """Return the medium of a model's images: of its config, or of its size alone; as training reads `data`, or plainly.

    Without `data` transparent pixels show white, and `max_pixels` is the largest image that is opened.
    """
    side = Square(image) if isinstance(image, int) else image
    if side.array is not None:
        if data is None:
            return Array(side.array, side.mean, side.std, max_pixels)
        return Array(side.array, side.mean, side.std, data.max_pixels, data.array_augments())
    if data is not None:
        data.refuse_array_augments()
    if data is None:
        return Photo(side.size, resize=side.resize, resample=side.resample, max_pixels=max_pixels)
    return Photo(
        side.size,
        resize=side.resize,
        resample=side.resample,
        cut_resample=data.resample,
        background=data.background,
        max_pixels=data.max_pixels,
        turbo=data.decoder == "turbo",
        augments=data.augments(),
    )
