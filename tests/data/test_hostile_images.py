"""Images of strangers: content decides what is opened, bounds hold for what is decoded, a fault is all that happens."""

import contextlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmclr.data.pixels import decode
from mmclr.data.pixels.decode import MAX_PIXELS, EncodedImage, flatten, open_image, upright
from mmclr.data.pixels.plain import plain
from mmclr.data.samples.skipped import Fault
from mmclr.data.settings import DataConfig
from tests.data.images import WHOLE, chunk, encode, image, png

ROOT = Path(__file__).parent.parent.parent
WHITE = (255, 255, 255)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def fault_of(data, max_pixels=10**6, turbo=False):
    """Return the reason of the fault, None when the image has pixels."""
    try:
        made = EncodedImage(data, max_pixels, turbo)
        assert made.pixels(WHITE).size == made.size
    except Fault as fault:
        return f"{fault.reason}: {fault.detail}"
    return None


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_ones_are_opened(kind):
    assert fault_of(WHOLE[kind]) is None
    assert EncodedImage(WHOLE[kind], 10**6).format == ("JPEG" if kind == "MPO" else kind.split()[0])


@pytest.mark.parametrize(
    "kind", ["PPM", "ICO", "EPS", "PDF", "TGA", "PCX", "JPEG2000", "ICNS", "SGI", "DDS", "XBM", "QOI"]
)
def test_other_formats_are_faults_that_say_what_to_do(kind):
    data = encode(image((64, 64)).convert("1" if kind == "XBM" else "RGB"), kind)
    found = fault_of(data)
    assert found.startswith("bad_image")
    assert "JPEG, PNG, WEBP, GIF, BMP, AVIF, TIFF" in found


@given(st.sampled_from(sorted(WHOLE)), st.data())
@settings(max_examples=150)
def test_damaged_ones_are_images_or_faults(kind, draw):
    damaged(kind, draw)


@pytest.mark.slow
@given(st.sampled_from(sorted(WHOLE)), st.data())
@settings(max_examples=10_000)
def test_damaged_ones_are_images_or_faults_at_length(kind, draw):
    damaged(kind, draw)


def damaged(kind, draw):
    """Flip bytes, cut, repeat or join; with both decoders, as the loader, the evaluations and the tools read."""
    data = bytearray(WHOLE[kind])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        data[at] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.none() | st.integers(0, len(data)))
    data = bytes(data[:cut]) + draw.draw(st.sampled_from([b"", b"\0" * 40, WHOLE["PNG"]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fault_of(data)
        fault_of(data, turbo=True)
        with contextlib.suppress(Fault):
            plain(decode.as_stored(data, 10**6), 16)
        with contextlib.suppress(Fault):
            EncodedImage(data, 10**6).pixels(WHITE, 4.0)


@pytest.mark.parametrize(
    "broken", [b"Exif\0\0nonsense", b"\0\x08\0\x02\x01\x12\0\x03\0\0", b"", b"Exif\0\0MM\0*\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_loses_no_pixels(kind, broken):
    options = {"lossless": True} if kind == "WEBP" else {}
    got = EncodedImage(encode(image(), kind, exif=broken, **options), 10**6).pixels(WHITE)
    assert (np.asarray(got) == np.asarray(EncodedImage(encode(image(), kind, **options), 10**6).pixels(WHITE))).all()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("how", ["JPEG xmp", "WEBP xmp", "PNG late exif", "TIFF exif", "AVIF exif", "PNG xmp"])
def test_bytes_and_pillow_images_are_turned_alike(how, turn):
    kind, _, what = how.partition(" ")
    exif = Image.Exif()
    exif[0x0112] = turn
    if what == "xmp":
        data = turned_by_xmp(kind, turn)
    elif what == "late exif":
        whole = encode(image(), "PNG")
        body = b"eXIf" + exif.tobytes()[6:]
        late = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = whole[:-12] + late + whole[-12:]
    else:
        data = encode(image(), kind, exif=exif)
    made = EncodedImage(data, 10**6)
    got = made.pixels(WHITE)
    assert made.size == got.size == ((32, 48) if turn >= 5 else (48, 32))
    assert (np.asarray(got) == np.asarray(flatten(upright(Image.open(io.BytesIO(data))), WHITE))).all()


def turned_by_xmp(kind, turn):
    from PIL.PngImagePlugin import PngInfo

    if kind != "PNG":
        return encode(image(), kind, xmp=(XMP % turn).encode())
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP % turn)
    return encode(image(), "PNG", pnginfo=info)


def test_max_pixels_is_the_only_limit():
    slide = png(14_000, 14_000, depth=1, kind=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(slide, 10**9).size == (14_000, 14_000)
        assert open_image(png(20_000, 20_000, depth=1, kind=0), 10**9).size == (20_000, 20_000)
    assert fault_of(slide, 10**8).startswith("too_many_pixels")


def test_headers_are_believed_before_memory_is_taken():
    webp = bytearray(encode(image(), "WEBP", save_all=True, append_images=[image()]))
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    gif = bytearray(WHOLE["GIF"])
    gif[6:10] = b"\xff\xff\xff\xff"
    frame = bytearray(WHOLE["GIF"])
    at = frame.index(b",\0\0\0\0")
    frame[at + 5 : at + 9] = b"\xff\x7f\xff\x7f"
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 8, 325: 4}
    tile = struct.pack("<4sIH", b"II*\0", 8, len(tags))
    tile += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)
    assert fault_of(tile) == "too_many_pixels: 60000 x 60000 is more than 1000000"
    for data in map(bytes, (webp, gif, frame, tile)):
        assert fault_of(data)


@pytest.mark.parametrize(
    "data",
    [png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000)))] * 30),
     png(8, 8, *[chunk(b"tEXt", b"a\0")] * 100_001),
     WHOLE["JPEG progressive"].replace(b"\xff\xd9", b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 1000 + b"\xff\xd9")],
)  # fmt: skip
def test_bombs_beside_the_pixels(data):
    assert fault_of(data).startswith("bad_image")


@pytest.mark.parametrize("size", [(2, 20_000), (20_000, 2), (1, 60_000), (60_000, 3), (28, 20_000)])
def test_thin_images_are_their_middle(size, monkeypatch):
    thin = image(size)
    made = np.asarray(plain(thin, 224)).astype(int)
    assert made.shape == (224, 224, 3)
    short = min(size)
    middle = [round(side / 2 - min(side, 40 * short) / 2) for side in size]
    part = thin.crop((*middle, *(at + min(side, 40 * short) for at, side in zip(middle, size))))
    assert np.abs(made - np.asarray(plain(part, 224))).mean() < 30


@pytest.mark.parametrize("size", [(60, 2000), (1999, 61), (37, 37), (64, 900)])
def test_the_middle_alone_is_what_cutting_it_out_gives(size, monkeypatch):
    whole = np.asarray(plain(image(size), 48)).astype(int)
    monkeypatch.setattr("mmclr.data.pixels.plain.THIN", 0)
    assert np.abs(np.asarray(plain(image(size), 48)).astype(int) - whole).max() <= 1


MEASURE = """
import sys
from mmclr.data.pixels.decode import MAX_PIXELS, Image
from mmclr.data.pixels.plain import plain
from tests.fuzz.guard import peak_bytes
before = peak_bytes()
plain(EncodedImage(sys.stdin.buffer.read(), MAX_PIXELS).pixels((255, 255, 255)), 224)
print(peak_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["PNG RGB", "PNG RGBA", "PNG I;16", "WEBP RGBA"])
def test_the_largest_images_take_less_than_a_gigabyte(how):
    kind, mode = how.split()
    if kind == "PNG":
        data = png(8000, 8000, **{"RGB": {}, "RGBA": {"kind": 6}, "I;16": {"depth": 16, "kind": 0}}[mode])
    else:
        data = encode(Image.new(mode, (6928, 6928)), kind, lossless=True, method=0)
    assert DataConfig.max_pixels == MAX_PIXELS
    done = subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True, cwd=ROOT)
    assert 1 << 27 < int(done.stdout) < 1 << 30


def test_webp_has_three_quarters_of_the_pixels():
    data = encode(image((100, 100)), "WEBP")
    assert fault_of(data, 13_334) is None
    assert fault_of(data, 13_332).startswith("too_many_pixels")


def test_nothing_is_started_by_an_image():
    """Every plug-in that can start a program is out of reach, whatever the member is called."""
    import mmclr.report.images as report

    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"
    assert "EPS, which is not opened; convert it" in fault_of(eps)
    with pytest.raises(Fault, match="EPS"):
        report.to_image(eps)
