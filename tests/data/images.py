"""Images of every format that is opened, and ones made by hand: small, whole, and to be damaged."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from mmclr.data.pixels.decode import OPENED


def image(size=(48, 32)):
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x * 5 % 256, y * 7 % 256, (x + y) * 3 % 256], -1).astype(np.uint8))


def encode(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


WHOLE = {kind: encode(image(), kind) for kind in OPENED} | {
    "MPO": encode(image(), "MPO", save_all=True, append_images=[image((16, 16))]),
    "GIF of many": encode(image(), "GIF", save_all=True, append_images=[image((48, 32)).rotate(90)] * 3),
    "PNG palette": encode(image().quantize(8), "PNG", transparency=3),
    "PNG 16 bit": encode(Image.fromarray(np.asarray(image().convert("L")).astype(np.uint16) * 257), "PNG"),
    "JPEG progressive": encode(image(), "JPEG", progressive=True),
    "TIFF lzw": encode(image(), "TIFF", compression="tiff_lzw"),
    "TIFF jpeg": encode(image(), "TIFF", compression="jpeg"),
    "WEBP animated": encode(image(), "WEBP", save_all=True, append_images=[image().rotate(180)]),
    "AVIF turned": encode(
        image(), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    ),
}


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *more, depth=8, kind=2):
    """A PNG of zeros, with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    row = bytes(1 + -(-width * depth * {0: 1, 2: 3, 6: 4}[kind] // 8))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
    )
