"""Encoded images to pixels, as the model's training meant them to be: see `Medium.plain`."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from mmclr.eval.embed.store import DIGEST
from mmclr.eval.sets.evaluation_set import EvalSet
from torch import Tensor

from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.skipped import Fault

PORTION = 16  # images a thread takes at a time: handing over one costs more than reading it
Row = tuple[bytes, "np.ndarray | Fault | None"]  # digest of the bytes; pixels where they are new


@dataclass(frozen=True)
class Decoded:
    """Consecutive images of a set: the digests of all, and the pixels of those that are new and could be decoded."""

    digests: list[bytes]
    new: list[bytes]  # [m]
    pixels: Tensor  # uint8 [m, 3, H, W], or as the medium has them
    faults: dict[int, Fault]  # number in the set -> why there are no pixels


def decoded(
    data: EvalSet, wanted: range, medium: Medium, batch: int, workers: int, known: Container[bytes]
) -> Iterator[Decoded]:
    """Yield the `wanted` images of a set in order, in batches, decoded by threads one batch ahead of the caller."""

    def load(numbers: range) -> list[Row]:
        return [one(number) for number in numbers]

    def one(number: int) -> Row:
        digest = hashlib.sha256(f"no image {number} of {data.name}".encode()).digest()[:DIGEST]
        try:
            encoded, beside = data.seen_by(medium, number)
            digest = hashlib.sha256(encoded + b"".join(beside.values())).digest()[:DIGEST]
            return digest, None if digest in known else medium.plain(medium.open(encoded, beside))
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
            stacked = medium.batched(np.stack(list(fresh.values()))) if fresh else torch.empty(0)
            faults = {number: found for number, (_, found) in zip(wanted[start:], results) if isinstance(found, Fault)}
            yield Decoded([digest for digest, _ in results], list(fresh), stacked, faults)
