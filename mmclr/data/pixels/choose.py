"""The choice of the medium that a model and its data ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmclr.config import ConfigError, check
from mmclr.data.pixels.array import Array
from mmclr.data.pixels.bands import Bands
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.pixels.medium import Medium, Side
from mmclr.data.pixels.photo import Photo
from mmclr.data.settings import DataConfig

RGB = 3


@dataclass(frozen=True)
class Square:
    """An image side that no model's config describes."""

    size: int
    resize: Literal["crop", "squash"] = "crop"
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    array: None = None
    channels: int = RGB
    intensity: Mapping[str, Any] | None = None


def choose(image: Side | int, data: DataConfig | None = None, max_pixels: int = MAX_PIXELS) -> Medium:
    """Return the medium of a model's images: of its config, or of its size alone; as training reads `data`, or plainly.

    Three channels without an intensity are photographs, of 8 bits; anything else is deep. Without `data` transparent
    pixels show white, and `max_pixels` is the largest image that is opened. Raises ConfigError where they do not fit.
    """
    side = Square(image) if isinstance(image, int) else image
    if side.array is not None:
        if data is None:
            return Array(side.array, side.mean, side.std, max_pixels)
        if data.intensity is not None:
            raise ConfigError("data.intensity: it is for images, and model.image.array takes numbers as they are")
        return Array(side.array, side.mean, side.std, data.max_pixels, data.array_augments())
    if data is not None:
        data.refuse_array_augments()
    intensity = (data.intensity if data else None) or of_tree(side.intensity)
    plainly: dict[str, Any] = {"resize": side.resize, "resample": side.resample, "max_pixels": max_pixels}
    if data is not None:
        plainly |= {
            "cut_resample": data.resample,
            "background": _background(data.background, side.channels),
            "max_pixels": data.max_pixels,
            "augments": data.augments(),
        }
    if side.channels == RGB and intensity is None:
        turbo = data is not None and data.decoder == "turbo"
        return Photo(side.size, turbo=turbo, **plainly)
    _check_bands(side.channels, intensity)
    return Bands(side.size, side.channels, intensity, **plainly)


def of_tree(tree: Mapping[str, Any] | None) -> Intensity | None:
    """Return the intensity that a model's config holds, None where it holds none. Raises ConfigError."""
    return None if tree is None else check(Intensity, tree, "model.image.intensity")


def _check_bands(channels: int, intensity: Intensity | None) -> None:
    for length in intensity.lengths() if intensity else ():
        if length != channels:
            raise ConfigError(
                f"data.intensity: {length} numbers, and model.image.channels is {channels}; give one, or one for each"
            )


def _background(colour: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Return the background of each band: a grey is that of all."""
    if len(set(colour)) == 1:
        return colour[:1] * channels
    if len(colour) != channels:
        raise ConfigError(
            f"data.background: {len(colour)} numbers, and model.image.channels is {channels}; give one, or one for each"
        )
    return colour
