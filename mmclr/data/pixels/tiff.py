"""TIFF files of any depth and number of bands, through tifffile, which Pillow reads in part and of 8 bits only.

Bands are the samples of a pixel, or pages of one sample each. The bytes are a stranger's: only compressions whose
output is bounded by the size of a strip or tile are opened, so that `max_pixels` bounds all that is taken.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.data.pixels.npy import check_dtype
from mmclr.data.samples.skipped import Fault
from mmclr.errors import UserError

LOOKED_AT = 256  # pages: a band is one at most, and models have 64
JPEG = (6, 7)  # of 8 bits, which Pillow opens
BOUNDED = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 50000: "Zstandard", 34925: "LZMA"}
WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6  # of PhotometricInterpretation
REDUCED_OR_MASK = 1 | 4  # of NewSubfileType
STRAIGHT_ALPHA = 2  # of ExtraSamples


class TiffFile:
    """A TIFF of which the headers are read."""

    format = "TIFF"

    def __init__(self, data: bytes) -> None:
        """Read the headers. Raises Fault; UserError when tifffile is not installed."""
        library = tifffile()
        try:
            self._file = library.TiffFile(io.BytesIO(data))
            self._pages = self._same_pages()
            self._describe(self._pages[0])
        except (Fault, UserError):
            raise
        except Exception as error:  # whatever a stranger's bytes make of it
            raise Fault("bad_image", f"TIFF that cannot be read: {error or type(error).__name__}"[:200]) from error

    def array(self) -> NDArray[Any]:
        """Return the numbers as they are stored, [bands, H, W]. Raises Fault."""
        try:
            planes = [page.asarray(squeeze=False, maxworkers=1) for page in self._pages]
            apart = [plane[:, 0] for plane in planes]  # [separate samples, H, W, samples side by side]
            bands = [part[..., 0] if len(part) > 1 else np.moveaxis(part[0], -1, 0) for part in apart]
            found = np.concatenate(bands)
            if self._pages[0].photometric == WHITE_IS_ZERO and self.dtype.kind == "u":
                found = ((1 << int(self._pages[0].bitspersample)) - 1 - found).astype(self.dtype)
        except Exception as error:
            raise Fault("bad_image", f"TIFF that cannot be decoded: {error or type(error).__name__}"[:200]) from error
        return found

    def _describe(self, page: Any) -> None:
        """Take what is the same for all pages from the first. Raises Fault, UserError."""
        self.jpeg = int(page.compression) in JPEG
        if not self.jpeg:
            self._check(page)
        self.dtype = np.dtype(page.dtype)
        samples = int(page.samplesperpixel)
        if samples > 1 and len(self._pages) > 1:
            found = [len(self._pages), page.imagelength, page.imagewidth, samples]
            raise Fault(
                "bad_image", f"4 dimensions, {found}; store bands as samples of a pixel, or as pages of one each"
            )
        self.bands = samples * len(self._pages)
        self.size = (int(page.imagewidth), int(page.imagelength))  # as stored
        self.alpha = tuple(page.extrasamples or ()) == (STRAIGHT_ALPHA,) and samples in (2, 4)
        self.turn = int(page.tags.valueof(274, 1))

    def _same_pages(self) -> list[Any]:
        """Return the first page and those that are like it, without masks and smaller copies."""
        pages: list[Any] = []
        for number, page in enumerate(self._file.pages):
            if number >= LOOKED_AT:  # a chain of pages may lead back to its beginning
                raise Fault("bad_image", f"a TIFF of more than {LOOKED_AT} pages")
            if number and (page.keyframe.shaped, page.dtype) != (pages[0].shaped, pages[0].dtype):
                continue
            if not number or not int(page.aspage().subfiletype) & REDUCED_OR_MASK:
                pages.append(page.aspage())
        if not pages:
            raise Fault("bad_image", "a TIFF without pages")
        return pages

    def _check(self, page: Any) -> None:
        """Raise Fault for what is not opened; UserError for what needs imagecodecs where it is not installed."""
        if page.dtype is None:
            raise Fault("bad_image", f"{page.bitspersample} bits of a sample, which is not opened")
        check_dtype(np.dtype(page.dtype))
        if page.imagedepth > 1:
            raise Fault("bad_image", f"a volume of {page.imagedepth} slices, not an image")
        if page.photometric in (PALETTE, YCBCR):
            raise Fault(
                "bad_image", f"{_name(page.photometric)} pixels, which are not opened; store grey, RGB or bands"
            )
        compression = int(page.compression)
        if compression not in BOUNDED:
            known = ", ".join(dict.fromkeys(BOUNDED.values()))
            raise Fault("bad_image", f"compression {_name(page.compression)}, which is not opened; store it as {known}")
        if compression != 1 or page.bitspersample not in (8, 16, 32, 64):
            imagecodecs()


def _name(value: Any) -> str:
    """Return what tifffile calls a number, or the number."""
    return str(getattr(value, "name", value))


def tifffile() -> Any:
    """Return the library. Raises UserError when it is not installed."""
    try:
        import tifffile
    except ImportError as error:
        raise UserError("a TIFF of a deep image needs tifffile: pip install 'mmclr[tiff]'") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it tells of every oddity that it passes over
    return tifffile


def imagecodecs() -> Any:
    """Return the library of codecs, whose output is bounded where tifffile's own is not. Raises UserError."""
    try:
        import imagecodecs
    except ImportError as error:
        raise UserError("a compressed TIFF needs imagecodecs: pip install 'mmclr[tiff]'") from error
    return imagecodecs
