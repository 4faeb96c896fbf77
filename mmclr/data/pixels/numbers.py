"""The numbers that an image file holds, as they are stored: any depth, any number of bands, nothing rounded.

Of PNG with 16 bits of RGB Pillow keeps the upper byte of each number; read once as big-endian and once as
little-endian, it gives both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmclr.data.pixels.decode import open_image, orientation
from mmclr.data.pixels.npy import MAGIC, check_dtype, read_header, read_values
from mmclr.data.pixels.tiff import TiffFile
from mmclr.data.samples.skipped import Fault

Array = NDArray[Any]
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6  # colour types of PNG
GREYS, CLEAR = ("1", "L", "LA", "La"), ("LA", "PA", "La", "RGBA", "RGBa")  # modes of Pillow's
DEEP = {"I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}  # of one band
TURNED: dict[int, Callable[[Array], Array]] = {  # [bands, H, W], as decode.TURNS
    2: lambda x: x[:, :, ::-1], 3: lambda x: x[:, ::-1, ::-1], 4: lambda x: x[:, ::-1],
    5: lambda x: x.transpose(0, 2, 1), 6: lambda x: x[:, ::-1].transpose(0, 2, 1),
    7: lambda x: x[:, ::-1, ::-1].transpose(0, 2, 1), 8: lambda x: x[:, :, ::-1].transpose(0, 2, 1),
}  # fmt: skip


class Numbers:
    """An image as numbers: its size, its bands, and how to read them. `size` is upright, `alpha` the last band."""

    def __init__(
        self,
        format: str,
        size: tuple[int, int],  # as stored
        bands: int,
        dtype: Any,
        read: Callable[[], Array],
        *,
        alpha: bool = False,
        turn: int = 1,  # as EXIF counts, from stored to upright
    ) -> None:
        self.format, self.bands, self.dtype, self.alpha = format, bands, np.dtype(dtype), alpha
        self.size = size[::-1] if turn >= 5 else size
        self._read, self._turn = read, turn

    def array(self) -> Array:
        """Return the numbers, upright [bands, H, W]. Raises Fault."""
        width, height = self.size if self._turn < 5 else self.size[::-1]
        try:
            found = self._read()
        except Fault:
            raise
        except Exception as error:  # whatever a decoder makes of a stranger's bytes
            raise Fault("bad_image", f"{error or type(error).__name__}"[:200]) from error
        if found.shape != (self.bands, height, width):
            said = f"{width} x {height} of {self.bands} bands"
            raise Fault("bad_image", f"its header tells of {said}, it has {list(found.shape)}")
        return TURNED.get(self._turn, lambda x: x)(found)


def open_numbers(data: bytes, max_pixels: int, channels: int | None = None) -> Numbers:
    """Read the header of a file: NumPy's, TIFF, PNG, or any that Pillow opens as 8 bits.

    `max_pixels` bounds width x height x bands / 3, as much as RGB takes; by `channels`, which a model wants, it is told
    whether an array is [C, H, W] or [H, W, C], without them by its shorter end. Raises Fault.
    """
    if data.startswith(MAGIC):
        head = read_header(data, 3 * max_pixels)
        return _checked(of_array(head.shape, head.dtype, lambda: read_values(data, head), channels, "NPY"), max_pixels)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _of_tiff(data, max_pixels)
    image = open_image(data, max_pixels)
    if image.format == "PNG" and data[12:16] == b"IHDR" and data[24] == 16:
        return _checked(_png16(image, data), max_pixels)
    return _checked(of_image(image), max_pixels)


def of_array(
    shape: tuple[int, ...], dtype: Any, read: Callable[[], Array], channels: int | None, format: str = "array"
) -> Numbers:
    """Return an array [H, W], [C, H, W] or [H, W, C] as numbers; the first of the two where both fit. Raises Fault."""
    check_dtype(np.dtype(dtype))
    if len(shape) not in (2, 3):
        raise Fault("bad_image", f"{len(shape)} dimensions, {list(shape)}; an image is [H, W], [C, H, W] or [H, W, C]")
    if len(shape) == 2:
        return Numbers(format, shape[::-1], 1, dtype, lambda: read()[None])
    channels = channels or min(shape[0], shape[2])
    fits = [channels, *([1] if channels == 3 else [3] if channels == 1 else [])]
    if shape[0] in fits:
        return Numbers(format, (shape[2], shape[1]), shape[0], dtype, read)
    if shape[2] in fits:
        return Numbers(format, (shape[1], shape[0]), shape[2], dtype, lambda: np.moveaxis(read(), -1, 0))
    raise Fault("bad_image", f"shape {list(shape)}, of which neither end is model.image.channels={channels}")


def of_image(image: Image.Image) -> Numbers:
    """Return an image of Pillow's as numbers: 8 bits for each of its colours, or what a mode without colours holds."""
    clear = image.mode in CLEAR or "transparency" in image.info
    if image.mode in DEEP and not clear:
        mode, dtype = image.mode, DEEP[image.mode]
    else:
        mode, dtype = ("L" if image.mode in GREYS else "RGB") + "A" * clear, np.uint8

    def read() -> Array:
        return _planes(np.asarray(image if image.mode == mode else image.convert(mode)))

    bands = 1 if mode in DEEP else len(mode)
    return Numbers(image.format or "none", image.size, bands, dtype, read, alpha=clear, turn=orientation(image))


def _png16(image: Image.Image, data: bytes) -> Numbers:
    """Return a PNG of 16 bits as numbers."""
    colours = data[25]
    (tile,) = image.tile  # type: ignore[attr-defined]

    def read(mode: str, raw: str) -> Array:
        again = open_image(data)
        again._mode, again.tile = mode, [tile._replace(args=raw)]  # type: ignore[attr-defined]
        again.load()
        return np.asarray(again)

    def both() -> Array:
        upper, lower = (read(image.mode, f"{image.mode};16{end}") for end in "BL")
        return _planes(upper.astype(np.uint16) << 8 | lower)

    def grey_alpha() -> Array:
        four = read("RGBA", "RGBA")  # the bytes of a pixel as they stand
        return _planes(np.ascontiguousarray(four).view(">u2").astype(np.uint16))

    readers = {GREY: lambda: np.asarray(image)[None], GREY_ALPHA: grey_alpha}
    bands, alpha = {GREY: 1, RGB: 3, GREY_ALPHA: 2, RGBA: 4}[colours], colours in (GREY_ALPHA, RGBA)
    read_all = readers.get(colours, both)
    return Numbers("PNG", image.size, bands, np.uint16, read_all, alpha=alpha, turn=orientation(image))


def _of_tiff(data: bytes, max_pixels: int) -> Numbers:
    file = TiffFile(data)
    if file.jpeg:  # Pillow's decoder is bounded by the size of the image
        return _checked(of_image(open_image(data, max_pixels)), max_pixels)
    found = Numbers("TIFF", file.size, file.bands, file.dtype, file.array, alpha=file.alpha, turn=file.turn)
    return _checked(found, max_pixels)


def _checked(image: Numbers, max_pixels: int) -> Numbers:
    """Return it. Raises Fault where it has no pixels, or more than `max_pixels` of RGB have numbers."""
    width, height = image.size
    if width < 1 or height < 1 or image.bands < 1:
        raise Fault("bad_image", f"{width} x {height} of {image.bands} bands: it has no pixels")
    if width * height * max(image.bands, 3) > 3 * max_pixels:
        said = f"{width} x {height} of {image.bands} bands is more than {max_pixels} of RGB"
        raise Fault("too_many_pixels", said)
    return image


def _planes(pixels: Array) -> Array:
    """Return [H, W] or [H, W, C] as [C, H, W]."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
