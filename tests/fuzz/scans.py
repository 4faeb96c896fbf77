"""Damaged files of deep images: TIFF of every layout, .npy, PNG of 16 bits, through the medium that reads them."""

import contextlib
import random
from pathlib import Path

import numpy as np

from mmclr.data.pixels.bands import Bands
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.samples.skipped import Fault
from tests.data.deep import bands_tiff, npy, png16, tiff, values
from tests.fuzz.guard import Case

WORDS = (0, 1, 2, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def files():
    """Return whole files, with the bands of each."""
    found = []
    for bands in (1, 3, 5):
        x = values(bands)
        layouts = ({}, {"compression": "lzw", "predictor": True}, {"compression": "zlib", "tile": (16, 16)},
                   {"compression": "zstd", "bigtiff": True}, {"compression": "packbits"})  # fmt: skip
        found += [(bands, bands_tiff(x, **how)) for how in layouts]
        found += [(bands, tiff(x, photometric="minisblack")), (bands, npy(x)), (bands, npy(x.astype(np.float32)))]
        found += [(bands, png16(x))] if bands < 5 else []
    return found


def scans(folder: Path, seed: int, count: int) -> tuple[Case, object]:
    """Return the healthy case, and a function from a number to a damaged file's."""
    whole = files()

    def read(bands: int, data: bytes) -> None:
        medium = Bands(24, bands, Intensity(low=0, high=4095), max_pixels=1 << 20)
        medium.plain(medium.open(data))

    def spoilt(bands: int, data: bytes) -> None:
        with contextlib.suppress(Fault):
            read(bands, data)

    def healthy() -> None:
        for bands, data in whole:
            read(bands, data)

    def case(number: int) -> Case:
        draw = random.Random(f"{seed}-{number}")
        bands, data = draw.choice(whole)
        data = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5))):
            ends = [draw.randrange(min(len(data), 400)), len(data) - 1 - draw.randrange(min(len(data), 400))]
            at = draw.choice([*ends, draw.randrange(len(data))])  # headers stand in front, directories behind
            if draw.random() < 0.5:
                data[at] = draw.randrange(256)
            else:
                data[at : at + 4] = draw.choice((*WORDS, draw.getrandbits(32))).to_bytes(
                    4, draw.choice(("little", "big"))
                )
        if draw.random() < 0.1:
            del data[draw.randrange(len(data)) :]
        return Case("scan", {"scan": bytes(data)}, lambda: spoilt(bands, bytes(data)))

    return Case("healthy", {}, healthy), case
