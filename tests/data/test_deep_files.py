"""Files of deep images: every kind holds the same numbers, a bad one is one sentence, and none takes more memory."""

import io
import resource
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from mmclr.data.pixels.bands import Bands
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.pixels.numbers import open_numbers
from mmclr.data.pixels.photo import Photo
from mmclr.data.samples.skipped import Fault
from mmclr.errors import UserError
from tests.data.deep import bands_tiff, npy, png16, tiff, values

WINDOW = Intensity(low=0, high=4095)


def opened(medium, data, **beside):
    return medium.open(data, beside)


def numbers(data, channels=1):
    return open_numbers(data, 10**6, channels).array()


def overwrite(data, tag, value):
    """Let a TIFF tell something else."""
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        found = file.pages[0].tags[tag]
        kind = {3: "H", 4: "I"}[found.dtype]
    struct.pack_into("<" + kind, data, found.valueoffset, value)


def test_every_kind_of_file_gives_the_same_numbers():
    for bands in (1, 2, 3, 4):
        x = values(bands, top=65536)
        assert (numbers(png16(x), bands) == x).all()
        for kind in (npy(x), npy(np.moveaxis(x, 0, -1)), npy(np.asfortranarray(x)), npy(x.astype(">u2"))):
            assert (numbers(kind, bands) == x).all()
    for bands in (1, 2, 5):
        x = values(bands, top=65536)
        for how in (
            {},
            {"compression": "lzw"},
            {"compression": "zlib", "predictor": True},
            {"tile": (16, 16)},
            {"tile": (16, 16), "compression": "zstd"},
            {"rowsperstrip": 4},
            {"byteorder": ">"},
            {"bigtiff": True},
        ):
            assert (numbers(bands_tiff(x, **how), bands) == x).all(), how
        if bands > 1:
            assert (numbers(tiff(x, photometric="minisblack", planarconfig="separate"), bands) == x).all()
        assert (numbers(tiff(x, photometric="minisblack"), bands) == x).all()  # pages
        wide = values(bands, dtype=np.float32) / 7
        assert (numbers(bands_tiff(wide, compression="lzw", predictor=True), bands) == wide).all()
        assert (numbers(npy(wide), bands) == wide).all()


def test_smaller_copies_of_pages_are_no_bands():
    x = values(3)
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for page in x:
            file.write(page, photometric="minisblack")
            file.write(page[::2, ::2], photometric="minisblack", subfiletype=1)
    assert (numbers(out.getvalue(), 3) == x).all()


def test_white_is_zero_and_turned_tiffs_are_seen_as_they_are_meant():
    x = values(1, top=65536)
    assert (numbers(tiff(x[0], photometric="miniswhite")) == 65535 - x).all()
    turned = tiff(x[0], photometric="minisblack", extratags=[(274, "H", 1, 6, True)])
    assert (numbers(turned)[0] == np.rot90(x[0], -1)).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_deep_images_as_it_turns_photographs(turn):
    photo, exif = Image.fromarray(values(1, top=256, dtype=np.uint8)[0]), Image.Exif()
    exif[274] = turn
    out = io.BytesIO()
    photo.save(out, "PNG", exif=exif)
    as_photo = Photo(16).open(out.getvalue())
    found = open_numbers(out.getvalue(), 10**6, 1)
    assert found.size == as_photo.size
    assert (found.array()[0] == np.asarray(as_photo.pixels((0, 0, 0)))[..., 0]).all()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (npy(values(4)), r"shape \[4, 29, 37\], of which neither end is model.image.channels=5"),
        (bands_tiff(values(4)), "4 bands, and model.image.channels is 5"),
        (png16(values(2)), "2 bands, and model.image.channels is 5"),
        (npy(values(5)[None]), "4 dimensions"),
        (npy(values()[0, 0]), "1 dimensions"),
        (npy(np.zeros((5, 0, 4))), "no pixels"),
        (npy(np.array([{}, 3], object), allow_pickle=True), "dtype object"),
        (npy(np.zeros((5, 4, 4), complex)), "dtype complex128: only real numbers"),
        (npy(np.zeros((5, 4, 4), "M8[s]")), "only real numbers"),
        (npy(np.zeros((5, 4, 4), [("a", "f4")])), "only real numbers"),
        (npy(values(5))[:-7], "7 bytes are missing"),
        (npy(values(5)) + b"more", "4 bytes too many"),
        (npy(values(5))[:40], "cannot be read"),
        (b"\x93NUMPY\x03\0" + npy(values(5))[8:], "version .3, 0.|version 3.0"),
        (npy(values(5)).replace(b"'shape': (5, 29, 37)", b"'shape': (5, -9, 37)"), "its header|too many|is more than"),
        (npy(values(5)).replace(b"(5, 29, 37), }", b"(9999999, 9999, 9999), }"), "its header|too many|is more than"),
        (npy(np.full((5, 4, 4), np.nan)), "80 of its 80 numbers are NaN or infinite"),
        (npy(np.where(np.arange(80).reshape(5, 4, 4) == 7, np.inf, 1.0)), "1 of its 80 numbers"),
        (tiff(values(10).reshape(2, 5, 29, 37), photometric="minisblack", planarconfig="separate"), "4 dimensions"),
        (tiff(values(5), photometric="minisblack")[:-500], "cannot be|header tells|bands, and"),
        (tiff(values(5), photometric="minisblack", compression="zlib")[:300], "cannot be|bands, and"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "cannot be read|without pages|bits of a sample"),
        (b"", "empty"),
        (b"GIF89a", "cannot be read"),
    ],
)  # fmt: skip
def test_bad_files_are_one_sentence(data, why):
    medium = Bands(24, 5, Intensity(low=0, high=1))
    with pytest.raises(Fault, match=why) as found:
        medium.plain(opened(medium, data))
    assert found.value.reason in ("bad_image", "bad_array", "too_many_pixels")
    assert "\n" not in found.value.detail


@pytest.mark.parametrize("bands", [1, 12])
def test_max_pixels_holds_before_memory_is_taken(bands):
    medium = Bands(24, bands, WINDOW, max_pixels=29 * 37 * max(bands, 3) // 3 - 1)
    for data in (npy(values(bands)), bands_tiff(values(bands)), png16(values(1))):
        if data[:4] == b"\x89PNG" and bands > 1:
            continue
        with pytest.raises(Fault) as found:
            medium.open(data)
        assert found.value.reason == "too_many_pixels"
    huge = bytearray(bands_tiff(values(bands)))
    for tag in (256, 257):
        overwrite(huge, tag, 60000)
    with pytest.raises(Fault) as found:
        medium.open(bytes(huge))
    assert found.value.reason == "too_many_pixels"


def test_compressed_strips_cannot_grow_beyond_their_size():
    """A strip of zeros that unpacks to a gigabyte, where the header tells of a thousand pixels."""
    bad = bytearray(tiff(values(1, size=(37, 29))[0], photometric="minisblack", compression="zlib"))
    bomb = zlib.compress(bytes(1 << 27), 1)
    overwrite(bad, 273, len(bad))
    overwrite(bad, 279, len(bomb))
    medium = Bands(24, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Fault):
        medium.plain(medium.open(bytes(bad + bomb)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16  # KiB, of 131072
    medium = Bands(24, 1, WINDOW)
    other = tiff(values(3, dtype=np.uint8).transpose(1, 2, 0), photometric="rgb", compression="jpeg2000")
    with pytest.raises(Fault, match="compression JPEG.*which is not opened; store it as none, LZW"):
        medium.open(other)


def test_pages_in_a_circle_and_unknown_compressions_are_faults():
    circle = bytearray(tiff(values(2), photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(bytes(circle))) as file:
        first, second = (page.offset for page in file.pages)
    count = struct.unpack_from("<H", circle, second)[0]
    struct.pack_into("<I", circle, second + 2 + 12 * count, first)
    with pytest.raises(Fault, match="more than 256 pages"):
        Bands(24, 1, WINDOW).open(bytes(circle))
    odd = bytearray(bands_tiff(values(1)))
    overwrite(odd, 259, 12345)
    with pytest.raises(Fault, match="compression 12345, which is not opened"):
        Bands(24, 1, WINDOW).open(bytes(odd))


@pytest.mark.parametrize(("library", "how"), [("tifffile", {}), ("imagecodecs", {"compression": "lzw"})])
def test_a_library_that_is_missing_is_named(monkeypatch, library, how):
    data = bands_tiff(values(2), **how)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}: pip install 'mmclr\[tiff\]'"):
        Bands(24, 2, WINDOW).open(data)
