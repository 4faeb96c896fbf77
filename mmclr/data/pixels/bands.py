"""Deep images: any number of bands of any depth, X-rays, satellites, microscopes. Views are float32 in [0, 1].

An image is mapped to [0, 1] once, by `Intensity`, and then cut and resized in floats, with the boxes that a photo of
its size would get. Resampling may overshoot; views are cut at 0 and 1, as those of 8 bits are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmclr.data.pixels import augment
from mmclr.data.pixels.augment import RESAMPLING, Augment, Recipe
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.intensity import Intensity, to_unit
from mmclr.data.pixels.medium import Medium
from mmclr.data.pixels.numbers import Numbers, of_array, of_image, open_numbers
from mmclr.data.pixels.plain import plain
from mmclr.data.random import Words
from mmclr.data.samples.skipped import Fault
from mmclr.data.shards.shards import IMAGES

Floats = NDArray[np.float32]
DEEP = ("tif", "tiff", "npy", "png")  # which of several images of a sample is the deep one
REACH = 3.0  # standard deviations at which a blur ends


class Image_(NamedTuple):
    """An opened image and the members of its sample, which may say its range."""

    numbers: Numbers
    beside: Mapping[str, bytes]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        return self.numbers.size

    @property
    def format(self) -> str:
        """Format and depth."""
        return f"{self.numbers.format} {self.numbers.dtype.name} x {self.numbers.bands}"


class Planes(NamedTuple):
    """A decoded image in [0, 1], a margin of background around it: one image of Pillow's mode F for each band."""

    bands: tuple[Image.Image, ...]
    margin: tuple[int, int]  # left and right, above and below


class Bands(Medium):
    """Views are float32 [S, S, C]."""

    members = (*DEEP, *(name for name in IMAGES if name not in DEEP))
    dtype = np.float32

    def __init__(
        self,
        size: int,
        channels: int,
        intensity: Intensity | None = None,
        *,
        resize: Literal["crop", "squash"] = "crop",
        resample: str = "bicubic",  # in `plain`
        cut_resample: str = "bicubic",  # in `cut`
        background: Sequence[int] = (255,),  # of 255: one number, or one for each band
        max_pixels: int = MAX_PIXELS,
        augments: Sequence[Augment] = (),  # that views are drawn with
    ) -> None:
        self.size, self.channels, self.shape = size, channels, (size, size, channels)
        self.intensity, self.beside = intensity, intensity.beside if intensity else ()
        self.resize, self.resample, self.cut_resample = resize, resample, cut_resample
        self.background: Floats = np.broadcast_to(np.asarray(background, np.float32) / 255, channels)
        self.max_pixels = max_pixels
        self.augments = tuple(augments) or (Augment(),)
        said = json.dumps(intensity.tree() if intensity else None)
        self.note = f", {channels} bands, intensity {said}"

    def open(self, data: bytes, beside: Mapping[str, bytes] | None = None) -> Image_:
        """Read the header. Raises Fault."""
        return self._opened(open_numbers(data, self.max_pixels, self.channels), beside)

    def given(self, value: Any) -> Image_:
        """Take an image of Pillow, or an array of numbers: [H, W], [C, H, W] or [H, W, C]. Raises ValueError."""
        try:
            if isinstance(value, Image.Image):
                return self._opened(of_image(value), None)
            array = np.asarray(value)
            return self._opened(of_array(array.shape, array.dtype, lambda: array, self.channels), None)
        except Fault as fault:
            raise ValueError(fault.detail) from None

    def draw(self, how: Augment, sizes: NDArray[np.int64], keys: Words) -> list[Recipe]:
        """Draw crops as of photographs; colours where there are three bands, else what changes each band."""
        drawn = augment.draw(how, sizes, keys, self.size)
        if self.channels == 3 or not how.recolours:
            return drawn
        tones = augment.tones(how, keys, self.channels)
        return [recipe._replace(colour=None, tones=tones[at]) for at, recipe in enumerate(drawn)]

    def decode(self, opened: Image_, shrink: float = 1.0) -> Planes:
        """Decode to [0, 1] at full size, on a canvas that all boxes of the augmentations lie on. Raises Fault."""
        unit, reach = self._unit(opened), max(how.reach for how in self.augments)
        margin = math.ceil(reach * unit.shape[2]), math.ceil(reach * unit.shape[1])
        if margin != (0, 0):
            wide = np.empty((len(unit), unit.shape[1] + 2 * margin[1], unit.shape[2] + 2 * margin[0]), np.float32)
            wide[:] = self.background[:, None, None]
            wide[:, margin[1] : margin[1] + unit.shape[1], margin[0] : margin[0] + unit.shape[2]] = unit
            unit = wide
        return Planes(tuple(map(Image.fromarray, unit)), margin)

    def cut(self, whole: Planes, drawn: Recipe) -> NDArray[Any]:
        """Return the view, float32 [S, S, C]."""
        left, top, right, bottom = drawn.box
        x, y = whole.margin
        box, size = (left + x, top + y, right + x, bottom + y), (self.size, self.size)
        view = _stacked(band.resize(size, RESAMPLING[self.cut_resample], box) for band in whole.bands)
        if drawn.colour is not None:
            view = augment.mixed(view, *drawn.colour)
        if drawn.tones is not None:
            view = augment.toned(view, drawn.tones)
        if drawn.sigma:
            view = _blurred(view, drawn.sigma)
        return view[:, ::-1] if drawn.flip else view

    def plain(self, opened: Image_) -> NDArray[Any]:
        """Return float32 [S, S, C], resized as photographs are. Raises Fault."""
        bands = map(Image.fromarray, self._unit(opened))
        return _stacked(plain(band, self.size, self.resample, self.resize) for band in bands)

    def bytes_of(self, whole: Planes) -> int:
        """Return the bytes of all bands."""
        return 4 * sum(band.width * band.height for band in whole.bands)

    def show(self, opened: Image_, side: int) -> Image.Image:
        """Return the first three bands as RGB, or the first as grey. Raises Fault."""
        return as_photo(self._unit(opened), side)

    def _opened(self, numbers: Numbers, beside: Mapping[str, bytes] | None) -> Image_:
        colours = numbers.bands - numbers.alpha
        usable = {self.channels} | ({1} if self.channels == 3 else {3} if self.channels == 1 else set())
        if numbers.bands != self.channels and colours not in usable:
            raise Fault("bad_image", f"{numbers.bands} bands, and model.image.channels is {self.channels}")
        return Image_(numbers, beside or {})

    def _unit(self, opened: Image_) -> Floats:
        """Return the image in [0, 1], float32 [C, H, W]."""
        found, alpha = opened.numbers.array(), None
        if opened.numbers.alpha and len(found) != self.channels:
            found, alpha = found[:-1], to_unit(found[-1:], None)
        if len(found) == 3 and self.channels == 1:  # grey that is stored as a photo
            if not (found == found[:1]).all():
                raise Fault("bad_image", "3 bands that differ, and model.image.channels is 1; set it to 3")
            found = found[:1]
        unit = to_unit(found, self.intensity, opened.beside)
        if len(unit) != self.channels:  # grey, of a model that sees colours
            unit = np.broadcast_to(unit, (self.channels, *unit.shape[1:]))
        if alpha is not None:
            unit = unit * alpha + self.background[:, None, None] * (np.float32(1) - alpha)
        return unit


def as_photo(unit: Floats, side: int) -> Image.Image:
    """Return an image in [0, 1], [C, H, W], as people see it, at most `side` pixels wide and high."""
    shown = [Image.fromarray(band) for band in (unit[:3] if len(unit) >= 3 else unit[:1])]
    scale = min(1.0, side / max(shown[0].size))
    size = (max(1, round(shown[0].width * scale)), max(1, round(shown[0].height * scale)))
    small = _stacked(band.resize(size, Image.Resampling.BICUBIC) for band in shown)
    pixels = (small * 255).round().astype(np.uint8)
    return Image.fromarray(pixels if len(shown) == 3 else pixels[..., 0]).convert("RGB")


def preview(data: bytes, side: int) -> Image.Image:
    """Return any image file as people can see it, each band from its least number to its greatest. Raises Fault."""
    found = open_numbers(data, MAX_PIXELS)
    return as_photo(to_unit(found.array(), Intensity(percentile=(0, 100))), side)


def _stacked(bands: Any) -> Floats:
    """Return bands side by side, [H, W, C], within [0, 1]."""
    found = np.stack([np.asarray(band) for band in bands], -1)
    return np.clip(found, 0.0, 1.0, out=found)


def _blurred(view: Floats, sigma: float) -> Floats:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(view, (sigma, sigma, 0), mode="nearest", truncate=REACH))
