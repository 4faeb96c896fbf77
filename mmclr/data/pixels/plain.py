"""The plain transform of evaluations: nothing random, and to the bit what open_clip evaluates with."""

from __future__ import annotations

from PIL import Image

THIN = 1 << 25  # pixels of a resized image above which only its middle is made


def plain(image: Image.Image, size: int, resample: str = "bicubic", resize: str = "crop") -> Image.Image:
    """Resize the short side of an image to `size` and cut out the middle; resize "squash": both sides to `size`."""
    if resize == "squash":
        return image.resize((size, size), Image.Resampling[resample.upper()])
    width, height = image.size
    short = min(width, height)
    before = image.size
    if short != size:
        width, height = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    if max(width, height) * size > THIN:
        return _middle(image, size, resample, (left, top, width, height))
    if before != (width, height):
        image = image.resize((width, height), Image.Resampling[resample.upper()])
    return image.crop((left, top, left + size, top + size))


def _middle(image: Image.Image, size: int, resample: str, place: tuple[int, int, int, int]) -> Image.Image:
    """Make the middle alone of a thin image, whose whole would be millions of pixels; place: left, top, width, height.

    It is the same up to the rounding of where the filter's taps lie.
    """
    left, top, width, height = place
    across, down = image.width / width, image.height / height
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    return image.resize((size, size), Image.Resampling[resample.upper()], (left * across, top * down, right, bottom))
