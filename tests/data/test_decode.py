"""Every kind of image becomes upright RGB; what cannot be decoded is a fault with its reason."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmclr.data.pixels.decode import EncodedImage
from mmclr.data.samples.skipped import Fault

WHITE = (255, 255, 255)


def photo(size=(64, 48)):
    y, x = np.mgrid[: size[1], : size[0]]
    smooth = np.stack([x * 4, y * 5, 128 + 60 * np.sin(x / 9)], -1)
    return Image.fromarray(smooth.clip(0, 255).astype(np.uint8))


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decode(data, shrink=1.0, background=WHITE, max_pixels=10**6, turbo=False):
    return np.asarray(EncodedImage(data, max_pixels, turbo).pixels(background, shrink)).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    difference = np.abs(decode(encode(photo(), kind, **options)) - np.asarray(photo())).mean()
    assert difference < (0.1 if kind not in ("JPEG", "GIF", "AVIF", "MPO") else 8)


def test_modes():
    expected = np.asarray(photo().convert("L")).astype(int)
    grey = photo().convert("L")
    assert (decode(encode(grey, "PNG")) == expected[..., None]).all()
    wide = Image.fromarray((np.asarray(grey).astype(np.uint16) << 8) + 77)
    assert (decode(encode(wide, "PNG")) == expected[..., None]).all()
    assert (decode(encode(wide, "TIFF")) == expected[..., None]).all()
    assert np.abs(decode(encode(photo().convert("CMYK"), "JPEG", quality=95)) - np.asarray(photo())).mean() < 5
    palette = photo().quantize(64)
    assert (decode(encode(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    assert set(np.unique(decode(encode(grey.convert("1"), "PNG")))) == {0, 255}


@pytest.mark.parametrize("background", [WHITE, (10, 20, 30)])
def test_transparency_shows_the_background(background):
    clear = photo().convert("RGBA")
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    alpha[:, 16] = 128
    clear.putalpha(Image.fromarray(alpha))
    got = decode(encode(clear, "PNG"), background=background)
    assert (got[:, :16] == background).all()
    assert (got[:, 32:] == np.asarray(photo())[:, 32:]).all()
    mixed = (np.asarray(photo()).astype(int)[:, 16] * 128 + np.array(background) * 127) / 255
    assert np.abs(got[:, 16] - mixed).max() <= 1
    palette = photo().quantize(16)
    data = encode(palette, "PNG", transparency=int(np.asarray(palette)[0, 0]))
    assert (decode(data, background=background)[0, 0] == background).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns(turn):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    data = encode(photo(), "PNG", exif=exif)
    assert (decode(data) == np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))).all()
    upright = EncodedImage(data, 10**6)
    assert upright.size == upright.pixels(WHITE).size
    half = EncodedImage(encode(photo(), "JPEG", exif=exif), 10**6).pixels(WHITE, 2.0)
    assert half.size == tuple(side // 2 for side in upright.size)


@pytest.mark.parametrize("turbo", [False, True])
def test_reduced_scale_is_near_the_whole(turbo):
    if turbo:
        pytest.importorskip("simplejpeg")
    data = encode(photo((130, 97)), "JPEG", quality=95)
    for shrink, factor in ((1.9, 1), (2.0, 2), (3.9, 2), (4.1, 4), (100, 8)):
        image = EncodedImage(data, 10**6, turbo).pixels(WHITE, shrink)
        assert image.size == (-(-130 // factor), -(-97 // factor))
        reference = np.asarray(photo((130, 97)).resize(image.size, Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(image) - reference).mean() < 8
    assert EncodedImage(encode(photo((130, 97)), "PNG"), 10**6, turbo).pixels(WHITE, 8).size == (130, 97)


def bomb(width, height):
    """A PNG that claims width x height pixels and holds almost nothing."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [100_000, 9_000, 1_001])
def test_too_many_pixels_before_decoding(side):
    with pytest.raises(Fault) as fault:
        EncodedImage(bomb(side, side), 10**6)
    assert fault.value.reason == "too_many_pixels"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", encode(photo(), "PNG")[:150], encode(photo(), "JPEG")[:400], encode(photo(), "WEBP")[:90],
     bomb(50, 50), encode(photo(), "TIFF")[:100], encode(photo(), "GIF")[:30]],
)  # fmt: skip
def test_broken_pictures(data):
    with pytest.raises(Fault) as fault:
        decode(data)
    assert fault.value.reason == "bad_image"
    assert fault.value.detail


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipped_bytes_never_crash():
    draw = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        whole = encode(photo(), kind)
        for _ in range(60):
            data = bytearray(whole)
            for at in draw.integers(0, len(data), 3):
                data[at] ^= int(draw.integers(1, 256))
            with contextlib.suppress(Fault):
                assert decode(bytes(data)).shape[2] == 3
