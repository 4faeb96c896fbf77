"""Encoded images to pixels, as the model's training meant them to be: whole decode, resize, centre crop."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from mmclr.eval.embed.store import DIGEST
from mmclr.eval.sets.evaluation_set import EvalSet
from PIL import Image
from torch import Tensor

from mmclr.data.pixels.decode import MAX_PIXELS, EncodedImage
from mmclr.data.samples.reader import plain
from mmclr.data.samples.skipped import Fault

PORTION = 16  # images a thread takes at a time: handing over one costs more than reading it
WHITE = (255, 255, 255)  # behind transparent pixels, as in training


@dataclass(frozen=True)
class Transform:
    """Pixels of the model's size from an encoded image of any size, to the bit as open_clip evaluates.

    No reduced decode and no other resampling here: both change numbers in the third digit.
    """

    size: int
    resize: str = "crop"  # the shorter side to size, and the middle of it; or squash: both sides to size
    resample: str = "bicubic"

    def __call__(self, encoded: bytes) -> np.ndarray:
        """Return uint8 pixels [3, size, size]. Raises Fault where the image cannot be decoded."""
        image = EncodedImage(encoded, MAX_PIXELS).pixels(WHITE)
        if self.resize == "squash":
            image = image.resize((self.size, self.size), Image.Resampling[self.resample.upper()])
        return np.asarray(plain(image, self.size, self.resample)).transpose(2, 0, 1)


Row = tuple[bytes, "np.ndarray | Fault | None"]  # digest of the bytes; pixels where they are new


@dataclass(frozen=True)
class Decoded:
    """Consecutive images of a set: the digests of all, and the pixels of those that are new and could be decoded."""

    digests: list[bytes]
    new: list[bytes]  # [m]
    pixels: Tensor  # uint8 [m, 3, H, W]
    faults: dict[int, Fault]  # number in the set -> why there are no pixels


def decoded(
    data: EvalSet, wanted: range, transform: Transform, batch: int, workers: int, known: Container[bytes]
) -> Iterator[Decoded]:
    """Yield the `wanted` images of a set in order, in batches, decoded by threads one batch ahead of the caller."""

    def load(numbers: range) -> list[Row]:
        return [one(number) for number in numbers]

    def one(number: int) -> Row:
        digest = hashlib.sha256(f"no image {number} of {data.name}".encode()).digest()[:DIGEST]
        try:
            encoded = data.read(number)
            digest = hashlib.sha256(encoded).digest()[:DIGEST]
            return digest, None if digest in known else transform(encoded)
        except Fault as fault:
            return digest, fault

    def submit(start: int) -> list[Future[list[Row]]]:
        numbers = wanted[start : start + batch]
        return [pool.submit(load, numbers[i : i + PORTION]) for i in range(0, len(numbers), PORTION)]

    with ThreadPoolExecutor(workers) as pool:
        ahead = submit(0)
        for start in range(0, len(wanted), batch):
            now, ahead = ahead, submit(start + batch)
            results = [result for future in now for result in future.result()]
            fresh = {digest: pixels for digest, pixels in results if isinstance(pixels, np.ndarray)}
            stacked = torch.from_numpy(np.stack(list(fresh.values()))) if fresh else torch.empty(0)
            faults = {number: found for number, (_, found) in zip(wanted[start:], results) if isinstance(found, Fault)}
            yield Decoded([digest for digest, _ in results], list(fresh), stacked, faults)
