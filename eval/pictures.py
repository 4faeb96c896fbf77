"""Encoded pictures to pixels, as CLIP evaluates: whole decode, bicubic resize of the shorter side, centre crop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.sets import EvalSet
from mmclr.data.decode import Picture
from mmclr.data.ledger import Fault
from mmclr.data.plain import plain

MAX_PIXELS = 178_956_970  # Pillow's own limit, above which it suspects a decompression bomb
WHITE = (255, 255, 255)  # behind transparent pixels, as in training


@dataclass(frozen=True)
class Transform:
    """Pixels of the model's size from an encoded picture of any size, to the bit as open_clip evaluates.

    No reduced decode and no other resampling here: both change numbers in the third digit.
    """

    size: int
    interpolation: str = "bicubic"

    def __call__(self, encoded: bytes) -> np.ndarray:
        """Return uint8 pixels [3, size, size]. Raises Fault where the picture cannot be decoded."""
        image = Picture(encoded, MAX_PIXELS).pixels(WHITE)
        return np.asarray(plain(image, self.size, self.interpolation)).transpose(2, 0, 1)


@dataclass(frozen=True)
class Decoded:
    """Some pictures of a set: those that could be decoded, and the hashes of all."""

    numbers: list[int]  # [m] their numbers in the set
    pixels: Tensor  # uint8 [m, 3, H, W]
    digests: bytes
    size: int  # pictures tried


def decoded(data: EvalSet, transform: Transform, batch: int, workers: int) -> Iterator[Decoded]:
    """Yield a set's pictures in order, in batches, decoded by threads one batch ahead of the caller."""

    def load(number: int) -> tuple[bytes, np.ndarray | None]:
        encoded = data.read(number)
        digest = hashlib.sha256(encoded).digest()
        try:
            return digest, transform(encoded)
        except Fault:
            return digest, None

    starts = range(0, len(data), batch)
    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(load, i) for i in range(min(batch, len(data)))]
        for start in starts:
            now = ahead
            following = range(start + batch, min(start + 2 * batch, len(data)))
            ahead = [pool.submit(load, i) for i in following]
            results = [future.result() for future in now]
            good = [(start + i, pixels) for i, (_, pixels) in enumerate(results) if pixels is not None]
            stacked = torch.from_numpy(np.stack([p for _, p in good])) if good else torch.empty(0, 3, 0, 0)
            yield Decoded([n for n, _ in good], stacked, b"".join(d for d, _ in results), len(results))
