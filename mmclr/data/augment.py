"""Random crops and colours of training pictures. Every draw is a function of (seed, epoch, sample, view, stage)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mmclr.config import config
from mmclr.data.decode import Colour
from mmclr.data.random import Words, key, uniform

TRIES = 10  # at a crop that fits, before the largest one in the middle is taken
BOX, MOVE, FLIP, COLOUR, GREY, BLUR = range(6)  # stages
Floats = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}


@config
class Augment:
    """How a training picture is changed. The defaults are open_clip's: a crop of at least 0.9 of the area."""

    crop_scale: tuple[float, float] = (0.9, 1.0)  # share of the area that is kept
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    shift: float = 0.0  # the picture moves by up to this share of its size; the background shows
    zoom: tuple[float, float] = (1.0, 1.0)  # and is magnified by a factor of this range
    flip: float = 0.0  # probability of mirroring left and right
    brightness: float = 0.0  # factor within 1 -+ this
    contrast: float = 0.0  # factor within 1 -+ this, about the picture's mean grey
    saturation: float = 0.0  # factor within 1 -+ this
    hue: float = 0.0  # turn within -+ this, in turns (0.5 = the other side of the colour circle)
    colour: float = 1.0  # probability of the four above
    grey: float = 0.0  # probability of leaving out all colour
    blur: float = 0.0  # probability of a Gaussian blur
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # its width, in pixels at an image size of 224

    def __post_init__(self) -> None:
        for name in ("flip", "colour", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1, not {getattr(self, name)}")
        for name in ("crop_scale", "crop_ratio", "zoom", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is a range of numbers above 0, the lower first, not {[low, high]}")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a share of the area, at most 1, not {self.crop_scale[1]}")

    @property
    def recolours(self) -> bool:
        """Whether any colour changes."""
        return self.grey > 0 or self.colour > 0 and any((self.brightness, self.contrast, self.saturation, self.hue))


class Plan(NamedTuple):
    """What is done to each picture of a batch."""

    box: Floats  # [b, 4] left, top, right, bottom in pixels of the picture; may reach beyond it
    flip: NDArray[np.bool_]  # [b]
    colour: Floats  # [b, 4] brightness, contrast, saturation (factors), hue (turns)
    sigma: Floats  # [b] of the blur, in output pixels; 0 for none


def plan(augment: Augment, sizes: NDArray[np.int64], keys: Words, image_size: int) -> Plan:
    """Draw what happens to pictures of `sizes` [b, 2] (width, height); keys [b] tell them apart."""
    count = len(keys)
    box = _moved(augment, _crops(augment, sizes, keys), keys)
    colour = np.tile([1.0, 1.0, 1.0, 0.0], (count, 1))
    if augment.recolours:
        draws = uniform(key(keys, COLOUR), 6)
        spread = [augment.brightness, augment.contrast, augment.saturation, augment.hue]
        changed = (2 * draws[:, :4] - 1) * spread + [1, 1, 1, 0]
        colour = np.where(draws[:, 4:5] < augment.colour, changed, colour)
        colour[draws[:, 5] < augment.grey, 2:] = 0  # no saturation, no turn
    sigma = np.zeros(count)
    if augment.blur:
        draws = uniform(key(keys, BLUR), 2)
        low, high = np.array(augment.blur_sigma) * image_size / 224
        sigma = np.where(draws[:, 0] < augment.blur, low + (high - low) * draws[:, 1], 0.0)
    flip = uniform(key(keys, FLIP), 1)[:, 0] < augment.flip
    return Plan(box, flip, colour, sigma)


def _crops(augment: Augment, sizes: NDArray[np.int64], keys: Words) -> Floats:
    """Random resized crops: area and log(ratio) uniform, redrawn until they fit. Boxes need not be whole pixels."""
    width, height = sizes.T.astype(np.float64)[:, :, None]
    draws = uniform(key(keys, BOX), 2 * TRIES + 2)
    low, high = augment.crop_scale
    area = width * height * (low + (high - low) * draws[:, :TRIES])
    low, high = np.log(augment.crop_ratio)
    ratio = np.exp(low + (high - low) * draws[:, TRIES:-2])
    w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (w <= width) & (h <= height)
    rows, first = np.arange(len(keys)), fits.argmax(1)
    whole_ratio = np.clip(width / height, *augment.crop_ratio)
    w = np.where(fits.any(1), w[rows, first], np.minimum(width, height * whole_ratio)[:, 0])
    h = np.where(fits.any(1), h[rows, first], np.minimum(height, width / whole_ratio)[:, 0])
    place = np.where(fits.any(1)[:, None], draws[:, -2:], 0.5)
    left, top = (width[:, 0] - w) * place[:, 0], (height[:, 0] - h) * place[:, 1]
    return np.stack([left, top, left + w, top + h], 1)


def _moved(augment: Augment, box: Floats, keys: Words) -> Floats:
    """Shift and zoom: the box moves the other way and shrinks as the picture grows."""
    if not augment.shift and augment.zoom == (1.0, 1.0):
        return box
    draws = uniform(key(keys, MOVE), 3)
    size = box[:, 2:] - box[:, :2]
    middle = (box[:, 2:] + box[:, :2]) / 2 + (2 * draws[:, :2] - 1) * augment.shift * size
    low, high = augment.zoom
    half = size / (2 * (low + (high - low) * draws[:, 2:]))
    return np.concatenate([middle - half, middle + half], 1)


def crop(
    image: Image.Image, box: tuple[float, float, float, float], size: int, resample: str, background: Colour
) -> Image.Image:
    """Resize the part `box` of an RGB picture to size x size; what lies beyond the picture is background."""
    width, height = image.size
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > width or bottom > height:
        # What sticks out decides the margin: a picture that has moved far is not copied into a huge one.
        margin = [int(np.ceil(max(0.0, side))) for side in (-left, -top, right - width, bottom - height)]
        wide = Image.new("RGB", (width + margin[0] + margin[2], height + margin[1] + margin[3]), background)
        wide.paste(image, (margin[0], margin[1]))
        image, box = wide, (left + margin[0], top + margin[1], right + margin[0], bottom + margin[1])
    return image.resize((size, size), RESAMPLING[resample], box=box)


def recolour(image: Image.Image, colour: Floats) -> Image.Image:
    """Apply brightness, contrast (about the mean grey), saturation and hue, as one linear map of RGB."""
    brightness, contrast, saturation, hue = colour.tolist()
    matrix = brightness * contrast * _saturate(saturation) @ _turn_hue(hue)
    grey = 0.0
    if contrast != 1:
        grey = float(np.asarray(image.reduce(max(1, image.width // 32))).reshape(-1, 3).mean(0) @ LUMA)
    offset = brightness * (1 - contrast) * grey
    rows = [(*row, offset) for row in matrix.tolist()]
    return image.convert("RGB", tuple(value for row in rows for value in row))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """Blur with a Gaussian of width sigma, in pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def _saturate(factor: float) -> Floats:
    return factor * np.eye(3) + (1 - factor) * LUMA[None, :]


def _turn_hue(turns: float) -> Floats:
    """Turn colours about the grey axis (Rodrigues' formula with the axis (1, 1, 1) / sqrt 3)."""
    if turns == 0:
        return np.eye(3)
    angle = 2 * np.pi * turns
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) / 3 * np.ones((3, 3))
