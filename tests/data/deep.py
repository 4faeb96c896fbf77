"""Files of deep images, each written by something that is not what reads it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile

GREY, GREY_ALPHA, RGB, RGBA = 0, 4, 2, 6


def values(bands=1, size=(37, 29), seed=0, top=4096, dtype=np.uint16):
    """Numbers [bands, H, W] below `top`, all over."""
    width, height = size
    return np.random.default_rng(seed).integers(0, top, (bands, height, width)).astype(dtype)


def png16(x):
    """[C, H, W] of uint16 as a PNG whose rows take turns in all five filters of the specification."""
    bands, height, width = x.shape
    raw = np.ascontiguousarray(np.moveaxis(x, 0, -1)).astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    step, above, rows = 2 * bands, np.zeros(raw.shape[1], int), []
    for y, row in enumerate(raw):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        near = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)]).argmin(0)
        paeth = np.choose(near, [left, above, corner])
        taken = [0 * row, left, above, (left + above) // 2, paeth][y % 5]
        rows.append(bytes([y % 5]) + ((row - taken) % 256).astype(np.uint8).tobytes())
        above = row
    colours = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[bands]
    head = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def npy(x, **how):
    """An array as np.save writes it."""
    out = io.BytesIO()
    np.save(out, x, **how)
    return out.getvalue()


def tiff(x, **how):
    """An array as tifffile writes it."""
    out = io.BytesIO()
    tifffile.imwrite(out, x, **how)
    return out.getvalue()


def bands_tiff(x, **how):
    """[C, H, W] as samples of a pixel, side by side."""
    extra = {"extrasamples": ["unspecified"] * (len(x) - 1)} if len(x) > 1 else {}
    side_by_side = np.moveaxis(x, 0, -1) if len(x) > 1 else x[0]
    return tiff(side_by_side, photometric="minisblack", planarconfig="contig" if len(x) > 1 else None, **extra, **how)
