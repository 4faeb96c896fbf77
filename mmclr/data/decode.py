"""Bytes of a picture to upright RGB: every mode that Pillow opens, at the reduced scale that is enough.

JPEG is decoded at 1/2, 1/4 or 1/8 (libjpeg does this in its inverse DCT) when what is cropped stays larger than
what it is resized to: most of the cost of a picture is in the pixels that are thrown away.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmclr.data.ledger import Fault
from mmclr.errors import UserError

Colour = tuple[int, int, int]
ORIENTATION = 0x0112  # EXIF
BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError, ArithmeticError)


class Picture:
    """A picture of which only the header is read until `pixels` is called."""

    def __init__(self, data: bytes, max_pixels: int, turbo: bool = False) -> None:
        """Read the header. Raises Fault when it is none, or tells of more than `max_pixels`."""
        try:
            self._image: Image.Image = Image.open(io.BytesIO(data))
            width, height = self._image.size
            self._turn = _orientation(self._image)
        except Image.DecompressionBombError as error:
            raise Fault("too_many_pixels", str(error)) from error
        except (UnidentifiedImageError, *BROKEN) as error:
            raise Fault("bad_image", _why(error, data)) from error
        if self._image.format == "PNG":
            _check_png(data)
        if width * height > max_pixels:
            raise Fault("too_many_pixels", f"{width} x {height} is more than {max_pixels}")
        self.size = (height, width) if self._turn >= 5 else (width, height)  # upright
        self._turbo = data if turbo and self._image.format == "JPEG" and self._image.mode in ("RGB", "L") else None
        self._data = data

    @property
    def format(self) -> str:
        """Return Pillow's name of the format."""
        return self._image.format or "unknown"

    def pixels(self, background: Colour, shrink: float = 1.0) -> Image.Image:
        """Decode to upright RGB, by a whole factor of at most `shrink` smaller where the format can. Raises Fault."""
        try:
            image = self._decode(next(factor for factor in (8, 4, 2, 1) if factor <= max(shrink, 1)))
            return flatten(image if self._turn == 1 else ImageOps.exif_transpose(image), background)
        except BROKEN as error:
            raise Fault("bad_image", _why(error, self._data)) from error

    def _decode(self, factor: int) -> Image.Image:
        width, height = self._image.size
        least = (max(1, width // factor), max(1, height // factor))
        if self._turbo is not None and self._turn == 1:
            return Image.fromarray(
                turbo_jpeg().decode_jpeg(self._turbo, "RGB", min_height=least[1], min_width=least[0], strict=False)
            )
        if factor > 1 and self._image.format == "JPEG":
            self._image.draft(None, least)
        self._image.load()
        return self._image


def flatten(image: Image.Image, background: Colour) -> Image.Image:
    """Return any mode as RGB; transparent pixels show the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        below = Image.new("RGBA", clear.size, (*background, 255))
        return Image.alpha_composite(below, clear).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion cuts at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    return image.convert("RGB")


def turbo_jpeg() -> Any:
    """Return the module that binds libjpeg-turbo. Raises UserError when it is not installed."""
    try:
        import simplejpeg
    except ImportError as error:
        raise UserError("data.decoder=turbo needs simplejpeg: pip install 'mmclr[turbo]'") from error
    return simplejpeg


def _check_png(data: bytes) -> None:
    """Compare the checksums of the chunks, which Pillow leaves out for the pixels. Raises Fault."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if data[end : end + 4] != zlib.crc32(data[at + 4 : end]).to_bytes(4, "big"):
            raise Fault("bad_image", f"damaged: the checksum of its {data[at + 4 : at + 8]!r} chunk is wrong")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:
        return 1
    turn = image.getexif().get(ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _why(error: Exception, data: bytes) -> str:
    if not data:
        return "the member is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture: {len(data)} bytes that begin with {data[:8]!r}"
    return f"{error or type(error).__name__}"[:200]
