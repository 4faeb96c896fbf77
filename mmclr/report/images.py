"""Images, and arrays as drawings, inlined as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from mmclr.data.pixels.array import COLOURS, lines, open_any
from mmclr.data.pixels.bands import preview
from mmclr.data.pixels.decode import LARGEST, open_image
from mmclr.data.pixels.npy import MAGIC, read_header
from mmclr.data.pixels.numbers import DEEP
from mmclr.data.samples.skipped import Fault
from mmclr.display.html import render

AnyImage = Any  # a PIL image, encoded bytes, a path, or uint8 pixels [3, H, W] or [H, W, 3] (numpy or torch)
MOST = 1024  # pixels of a side of a deep image
LEAST, LONGEST = 32, 3  # of an array [H, W] that is an image: pixels of its shorter side, times that its longer is
SIDE = 128  # pixels of the longer side: sharp at 64 CSS pixels on a dense screen


def data_uri(given: AnyImage, side: int = SIDE) -> Markup:
    """Return `given`, shrunk to at most `side` pixels, as a data URI; an array that is no image as lines."""
    if isinstance(given, (str, Path)):
        given = Path(given).read_bytes()
    if isinstance(given, (bytes, bytearray)) and _is_signal(bytes(given)):
        return _uri("svg+xml", signal(bytes(given), side).encode())
    image = to_image(given)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=82, method=4)
    return _uri("webp", out.getvalue())


def signal(data: bytes, side: int = SIDE) -> Markup:
    """Return the bytes of a .npy file as an SVG, a line for each channel, all on one scale. Raises Fault."""
    wide, high = side, side // 2
    drawn = lines(open_any(data).read(), wide, high)
    paths = [
        (COLOURS[number % len(COLOURS)], " ".join(f"{x:.1f},{y:.1f}" for x, y in points))
        for number, points in enumerate(drawn)
    ]
    return render("signal.svg", wide=wide, high=high, paths=paths)


def _uri(kind: str, data: bytes) -> Markup:
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}")


def to_image(given: AnyImage) -> Image.Image:
    """Return an RGB (or RGBA) PIL image of its own, whatever form the image has."""
    if isinstance(given, Image.Image):
        image = given.copy()
    elif isinstance(given, (bytes, bytearray)):
        image = _open(bytes(given))
    elif isinstance(given, (str, Path)):
        image = _open(Path(given).read_bytes())
    else:
        pixels = np.asarray(given)
        image = Image.fromarray(pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels)
    return image if image.mode == "RGBA" else image.convert("RGB")


def _is_signal(data: bytes) -> bool:
    """Whether bytes are a .npy of steps and channels; those of an image have bands, or two sides that are alike."""
    if not data.startswith(MAGIC):
        return False
    shape = read_header(data, LARGEST).shape
    return len(shape) < 3 and not (len(shape) == 2 and min(shape) >= LEAST and max(shape) <= LONGEST * min(shape))


def _open(data: bytes) -> Image.Image:
    """Return an encoded image; of more than 8 bits, or of other bands than RGB, what can be seen of it."""
    try:
        image = open_image(data)
        if image.mode not in DEEP:
            return image
    except Fault:
        if not data.startswith((MAGIC, b"II", b"MM")):
            raise
    return preview(data, MOST)
