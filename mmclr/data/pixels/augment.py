"""Random crops and colours of training images. Every draw is a function of (seed, epoch, sample, view, stage)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mmclr.config import config
from mmclr.data.pixels.decode import Colour
from mmclr.data.random import Words, key, uniform

TRIES = 10  # at a crop that fits, before the largest one in the middle is taken
BOX, MOVE, FLIP, COLOUR, GREY, BLUR, TONES = range(7)  # stages
Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
LUMA, EYE = np.array([0.299, 0.587, 0.114]), np.eye(3)
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}


@config
class Augment:
    """Changes of a training image. The defaults are open_clip's: a crop of at least 0.9 of the area.

    Of deep images with other than three bands each has its own brightness and contrast, and none the other colours.
    """

    crop_scale: tuple[float, float] = (0.9, 1.0)  # share of the area that is kept
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    shift: float = 0.0  # the image moves by up to this share of its size; the background shows
    zoom: tuple[float, float] = (1.0, 1.0)  # and is magnified by a factor of this range
    flip: float = 0.0  # probability of mirroring left and right
    brightness: float = 0.0  # factor within 1 -+ this
    contrast: float = 0.0  # factor within 1 -+ this, about the image's mean grey
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
    def reach(self) -> float:
        """The farthest that a crop reaches beyond the image, as a share of its size."""
        return self.shift + max(0.0, (1 / self.zoom[0] - 1) / 2)

    @property
    def recolours(self) -> bool:
        """Whether any colour changes."""
        return self.grey > 0 or self.colour > 0 and any((self.brightness, self.contrast, self.saturation, self.hue))


class Recipe(NamedTuple):
    """The changes of one image."""

    box: tuple[float, float, float, float]  # left, top, right, bottom in its pixels; may reach beyond it
    flip: bool
    colour: tuple[float, float, float, float] | None  # brightness, contrast, saturation (factors), hue (turns)
    sigma: float  # of the blur, in output pixels; 0 for none
    tones: Floats | None = None  # brightness and contrast (factors) of each band [C, 2], in place of colour

    def shrink(self, size: int) -> float:
        """Return by which factor the box is larger than `size`."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top) / size

    def place(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the box in shares of an image of `size`; left and right change places where it is mirrored."""
        left, top, right, bottom = (edge / size[at % 2] for at, edge in enumerate(self.box))
        return (right, top, left, bottom) if self.flip else (left, top, right, bottom)


def draw(augment: Augment, sizes: NDArray[np.int64], keys: Words, image_size: int) -> list[Recipe]:
    """Draw what happens to images of `sizes` [b, 2] (width, height); keys [b] tell them apart."""
    count = len(keys)
    boxes = _moved(augment, _crops(augment, sizes, keys), keys).tolist()
    flips = (uniform(key(keys, FLIP), 1)[:, 0] < augment.flip).tolist() if augment.flip else [False] * count
    colours = _colours(augment, keys).tolist() if augment.recolours else [None] * count
    sigmas = _sigmas(augment, keys, image_size).tolist() if augment.blur else [0.0] * count
    return list(map(Recipe, boxes, flips, colours, sigmas))


def _colours(augment: Augment, keys: Words) -> Floats:
    draws = uniform(key(keys, COLOUR), 6)
    spread = [augment.brightness, augment.contrast, augment.saturation, augment.hue]
    changed = (2 * draws[:, :4] - 1) * spread + [1, 1, 1, 0]
    colours = np.where(draws[:, 4:5] < augment.colour, changed, [1.0, 1.0, 1.0, 0.0])
    colours[draws[:, 5] < augment.grey, 2:] = 0  # no saturation, no turn
    return colours


def tones(augment: Augment, keys: Words, bands: int) -> Floats:
    """Draw brightness and contrast of each band of images that are no RGB, [b, C, 2]."""
    draws = uniform(key(keys, TONES), 2 * bands + 1)
    changed = 1 + (2 * draws[:, 1:].reshape(-1, bands, 2) - 1) * [augment.brightness, augment.contrast]
    return np.where(draws[:, :1, None] < augment.colour, changed, 1.0)


def _sigmas(augment: Augment, keys: Words, image_size: int) -> Floats:
    draws = uniform(key(keys, BLUR), 2)
    low, high = np.array(augment.blur_sigma) * image_size / 224
    return np.where(draws[:, 0] < augment.blur, low + (high - low) * draws[:, 1], 0.0)


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
    """Shift and zoom: the box moves the other way and shrinks as the image grows."""
    if not augment.shift and augment.zoom == (1.0, 1.0):
        return box
    draws = uniform(key(keys, MOVE), 3)
    size = box[:, 2:] - box[:, :2]
    middle = (box[:, 2:] + box[:, :2]) / 2 + (2 * draws[:, :2] - 1) * augment.shift * size
    low, high = augment.zoom
    half = size / (2 * (low + (high - low) * draws[:, 2:]))
    return np.concatenate([middle - half, middle + half], 1)


class Canvas(NamedTuple):
    """A decoded image with a margin of background, from which views are cut."""

    image: Image.Image
    factor: int  # by which the image is smaller than its file says
    margin: tuple[int, int]  # left and right, above and below


def canvas(image: Image.Image, factor: int, augments: Sequence[Augment], background: Colour) -> Canvas:
    """Put an RGB image on a canvas as large as the boxes of any of `augments` may reach."""
    reach = max(how.reach for how in augments)
    margin = math.ceil(reach * image.width), math.ceil(reach * image.height)
    if margin == (0, 0):
        return Canvas(image, factor, margin)
    wide = Image.new("RGB", (image.width + 2 * margin[0], image.height + 2 * margin[1]), background)
    wide.paste(image, margin)
    return Canvas(wide, factor, margin)


def cut(canvas: Canvas, recipe: Recipe, size: int, resample: str) -> bytes:
    """Return the view of a canvas that a recipe makes: size x size RGB pixels."""
    left, top, right, bottom = recipe.box
    factor, (x, y) = canvas.factor, canvas.margin
    box = (left / factor + x, top / factor + y, right / factor + x, bottom / factor + y)
    view = canvas.image.resize((size, size), RESAMPLING[resample], box)
    if recipe.colour is not None:
        view = _recolour(view, *recipe.colour)
    if recipe.sigma:
        view = view.filter(ImageFilter.GaussianBlur(recipe.sigma))
    if recipe.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view.tobytes()


def _recolour(image: Image.Image, brightness: float, contrast: float, saturation: float, hue: float) -> Image.Image:
    """Apply brightness, contrast (about the mean grey), saturation and hue, as one linear map of RGB."""
    matrix = _mix(brightness, contrast, saturation, hue)
    offset = 0.0
    if contrast != 1:
        small = np.asarray(image.reduce(max(1, image.width // 32)))
        offset = brightness * (1 - contrast) * float(small.reshape(-1, 3).mean(0) @ LUMA)
    rows = [(*row, offset) for row in matrix.tolist()]
    return image.convert("RGB", tuple(value for row in rows for value in row))


def mixed(view: Pixels, brightness: float, contrast: float, saturation: float, hue: float) -> Pixels:
    """Return float RGB [H, W, 3] in [0, 1] with other colours: what `cut` does to one of 8 bits, not rounded."""
    offset = brightness * (1 - contrast) * float(view.mean((0, 1), np.float64) @ LUMA)
    matrix = _mix(brightness, contrast, saturation, hue).astype(np.float32)
    return np.clip(view @ matrix.T + np.float32(offset), 0.0, 1.0)


def toned(view: Pixels, tones: Floats) -> Pixels:
    """Return bands [H, W, C] in [0, 1], each with its brightness and its contrast about its mean; tones [C, 2]."""
    bright, contrast = tones.T
    offset = bright * (1 - contrast) * view.mean((0, 1), np.float64)
    return np.clip(view * (bright * contrast).astype(np.float32) + offset.astype(np.float32), 0.0, 1.0)


def _mix(brightness: float, contrast: float, saturation: float, hue: float) -> Floats:
    matrix = brightness * contrast * _saturate(saturation)
    return matrix @ _turn_hue(hue) if hue else matrix


def _saturate(factor: float) -> Floats:
    return factor * EYE + (1 - factor) * LUMA[None, :]


def _turn_hue(turns: float) -> Floats:
    """Turn colours about the grey axis (Rodrigues' formula with the axis (1, 1, 1) / sqrt 3)."""
    angle = 2 * np.pi * turns
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * EYE + np.sin(angle) * across + (1 - np.cos(angle)) / 3 * np.ones((3, 3))
