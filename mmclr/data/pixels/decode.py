"""Bytes of an image to upright RGB: every mode that Pillow opens, at the reduced scale that is enough.

JPEG is decoded at 1/2, 1/4 or 1/8 (libjpeg does this in its inverse DCT) when what is cropped stays larger than
what it is resized to: most of the cost of an image is in the pixels that are thrown away.

The bytes are a stranger's. What they are is decided by their first bytes, never by a name, among the formats of OPENED:
others can start programs (EPS) or hide images of another size (ICO). No limit but `max_pixels` holds: Pillow's own is
for images that are opened by Image.open. Whatever a decoder raises is a Fault of the sample.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from mmclr.data.samples.skipped import Fault
from mmclr.errors import UserError

# It warns of every damage that it passes over, by the million; where all warnings are errors, no pixels may be lost.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Colour = tuple[int, int, int]
OPENED: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # also MPO: the first of its images
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
OTHERS = {  # first bytes of formats that people have, but that are not opened
    b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"%PDF": "PDF", b"\0\0\1\0": "ICO", b"<svg": "SVG", b"<?xml": "XML",
    b"\0\0\0\x0cjP": "JPEG 2000", b"\xffO\xffQ": "JPEG 2000", b"\xff\n": "JPEG XL", b"\0\0\0\x0cJXL": "JPEG XL",
    b"8BPS": "Photoshop", b"SIMPLE": "FITS", b"\xd7\xcd\xc6\x9a": "WMF", b"P5": "PPM", b"P6": "PPM", b"qoif": "QOI",
    b"<!DOC": "HTML", b"<html": "HTML", b"PK": "ZIP",
}  # fmt: skip
ORIENTATION = 0x0112  # EXIF
TURNS = {  # what makes an image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
TELLS_TURN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # of an image's info
SCANS = 500  # of a JPEG: each goes over all of its pixels
CHUNKS = 100_000  # of a PNG
STRIP = 1 << 22  # pixels that are laid on the background at once
FACTORS = (8, 4, 2, 1)
LARGEST = 1 << 40  # pixels: more than any format has
MAX_PIXELS = 64_000_000  # where nothing else is said: these take less than 1 GiB, whatever their format


class EncodedImage:
    """An image of which only the header is read until `pixels` is called."""

    def __init__(self, data: bytes, max_pixels: int, turbo: bool = False) -> None:
        """Read the header. Raises Fault when it is none, or tells of more than `max_pixels`."""
        self._image = open_image(data, max_pixels)
        width, height = self._image.size
        self._turn = orientation(self._image)
        self.size = (height, width) if self._turn >= 5 else (width, height)  # upright
        self._turbo = data if turbo and self._image.format == "JPEG" and self._image.mode in ("RGB", "L") else None

    @property
    def format(self) -> str:
        """Return Pillow's name of the format."""
        return self._image.format or "unknown"

    def pixels(self, background: Colour, shrink: float = 1.0) -> Image.Image:
        """Decode to upright RGB, by a whole factor of at most `shrink` smaller where the format can. Raises Fault."""
        width, height = self._image.size
        try:
            image = flatten(self._decode(next(f for f in FACTORS if f <= max(shrink, 1))), background)
        except Exception as error:  # whatever a decoder makes of a stranger's bytes
            raise Fault("bad_image", f"{error or type(error).__name__}"[:200]) from error
        if image.size not in [(-(-width // factor), -(-height // factor)) for factor in FACTORS]:
            raise Fault("bad_image", f"its header tells of {width} x {height}, it has {image.width} x {image.height}")
        return image.transpose(TURNS[self._turn]) if self._turn in TURNS else image

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


def open_image(data: bytes, max_pixels: int = LARGEST) -> Image.Image:
    """Return a Pillow image of which the header is read, when it is one of OPENED. Raises Fault."""
    kind = _kind(data)
    if not kind:
        raise Fault("bad_image", _what(data))
    late = _check_png(data) if kind == "PNG" else b""
    if kind == "JPEG" and data.count(b"\xff\xda") > SCANS:
        raise Fault("bad_image", f"a JPEG of more than {SCANS} scans")
    try:
        if kind == "WEBP":  # its decoder takes memory for the pixels at once, and holds them four times
            max_pixels = max_pixels * 3 // 4
            _check_size(_webp_size(data), max_pixels)
        image = OPENED[kind](io.BytesIO(data))
        if late:
            image.info.setdefault("exif", late)
        _check_size(image.size, max_pixels)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_size((image.tag_v2.get(322, 1), image.tag_v2.get(323, 1)), max_pixels)  # of a tile
            image._n_frames = 1  # the others are not looked for: a file can have a hundred thousand
    except Image.DecompressionBombError as error:
        raise Fault("too_many_pixels", str(error)) from error
    except Fault:
        raise
    except Exception as error:
        raise Fault("bad_image", f"{kind} that cannot be read: {error or type(error).__name__}"[:200]) from error
    return image


def as_stored(data: bytes, max_pixels: int = LARGEST) -> Image.Image:
    """Return an image as RGB, neither turned nor laid on a background. Raises Fault."""
    image = open_image(data, max_pixels)
    try:
        return image.convert("RGB")
    except Exception as error:
        raise Fault("bad_image", f"{error or type(error).__name__}"[:200]) from error


def orientation(image: Image.Image) -> int:
    """Return how an image is turned, 1 to 8, as its EXIF or XMP says; 1 where that is broken: viewers show it so."""
    if image.format == "TIFF" or not any(name in image.info for name in TELLS_TURN):
        return 1  # Pillow turns a TIFF itself
    try:
        turn = Image.Image.getexif(image).get(ORIENTATION, 1)
        return turn if turn in range(1, 9) else 1
    except Exception:
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Return an image as its EXIF or XMP says that it is to be seen."""
    image.load()
    turn = orientation(image)
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def flatten(image: Image.Image, background: Colour) -> Image.Image:
    """Return any mode as RGB; transparent pixels show the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _laid_on(image, background)
    if image.mode == "I;16":  # Pillow's own conversion cuts at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        wide = np.array(image)
        wide >>= 8
        return Image.fromarray(wide.clip(0, 255, out=wide).astype(np.uint8)).convert("RGB")
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


def _laid_on(image: Image.Image, background: Colour) -> Image.Image:
    """Lay an image on the background, some rows at a time: a copy of everything would be four of them."""
    out = Image.new("RGB", image.size)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        clear = (image if box[3] - box[1] == image.height else image.crop(box)).convert("RGBA")
        below = Image.new("RGBA", clear.size, (*background, 255))
        out.paste(Image.alpha_composite(below, clear).convert("RGB"), box)
    return out


def _kind(data: bytes) -> str:
    """Return which format of OPENED the first bytes tell of, "" for none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:12] in (b"avif", b"avis", b"mif1", b"msf1") else ""
    marks = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
    marks |= dict.fromkeys(TiffImagePlugin.PREFIXES, "TIFF")
    return next((kind for mark, kind in marks.items() if data.startswith(mark)), "")


def _check_size(size: tuple[Any, Any], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise Fault("bad_image", f"{width} x {height}: it has no pixels")
    if width * height > max_pixels:
        raise Fault("too_many_pixels", f"{width} x {height} is more than {max_pixels}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size that the header tells of."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _check_png(data: bytes) -> bytes:
    """Compare the checksums of the chunks, which Pillow leaves out for the pixels. Raises Fault. Returns the EXIF."""
    at, chunks, exif = 8, 0, b""
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if data[end : end + 4] != zlib.crc32(data[at + 4 : end]).to_bytes(4, "big"):
            raise Fault("bad_image", f"damaged: the checksum of its {data[at + 4 : at + 8]!r} chunk is wrong")
        if data[at + 4 : at + 8] == b"IEND":
            break
        if data[at + 4 : at + 8] == b"eXIf":  # may stand behind the pixels, where opening does not see it
            exif = b"Exif\0\0" + data[at + 8 : end]
        at, chunks = end + 4, chunks + 1
        if chunks > CHUNKS:
            raise Fault("bad_image", f"a PNG of more than {CHUNKS:,} chunks")
    return exif


def _what(data: bytes) -> str:
    if not data:
        return "the member is empty"
    other = next((name for mark, name in OTHERS.items() if data.startswith(mark)), "")
    other = "HEIC" if data[4:8] == b"ftyp" else other
    if other:
        return f"{other}, which is not opened; convert it to one of {', '.join(OPENED)}"
    return f"not an image of {', '.join(OPENED)}: {len(data)} bytes that begin with {data[:8]!r}"
