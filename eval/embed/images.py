"""Encoded images to pixels, as the model's training meant them to be: see `Medium.plain`."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from mmclr.eval.embed.store import DIGEST
from mmclr.eval.sets.evaluation_set import EvalSet
from torch import Tensor

from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.images import usable
from mmclr.data.samples.skipped import Fault

PORTION = 16  # images a thread takes at a time: handing over one costs more than reading it
Pixels = Any  # of one image, as its medium makes them


class Row(NamedTuple):
    """One number of a set: an image, or an item of several."""

    digest: bytes  # of the bytes of its images
    pixels: list[Pixels] | Fault | None  # of each image; why there are none; None where they are known
    lost: list[Fault]  # of images beside others


@dataclass(frozen=True)
class Decoded:
    """Consecutive numbers of a set: the digests of all, and the pixels of those that are new and could be decoded."""

    digests: list[bytes]
    new: list[bytes]  # [m]
    pixels: Tensor  # uint8 [n, 3, H, W], or as the medium has them: of all images of the m new ones
    counts: Tensor  # int64 [m], how many images each has, n in all
    faults: dict[int, Fault]  # number in the set -> why there are no pixels
    lost: list[tuple[int, Fault]]  # of images of an item that has others


def decoded(
    data: EvalSet, wanted: range, medium: Medium, batch: int, workers: int, known: Container[bytes]
) -> Iterator[Decoded]:
    """Yield the `wanted` numbers of a set in order, in batches, decoded by threads one batch ahead of the caller."""

    def load(numbers: range) -> list[Row]:
        return [one(number) for number in numbers]

    def one(number: int) -> Row:
        digest = hashlib.sha256(f"no image {number} of {data.name}".encode()).digest()[:DIGEST]
        lost: list[Fault] = []
        try:
            encoded, beside = data.seen_by(medium, number, lost)
            digest = digest_of(encoded, b"".join(beside.values()))
            if digest in known:
                return Row(digest, None, lost)
            before = len(lost)
            pixels = usable(encoded, lambda one: medium.plain(medium.open(one, beside)), lost)
            if len(lost) > before:  # the row of some of them has another name: whoever asks again is told again
                digest = hashlib.sha256(digest + b"".join(fault.detail.encode() for fault in lost)).digest()[:DIGEST]
            return Row(digest, pixels, lost)
        except Fault as fault:
            return Row(digest, fault, lost)

    def submit(start: int) -> list[Future[list[Row]]]:
        numbers = wanted[start : start + batch]
        return [pool.submit(load, numbers[i : i + PORTION]) for i in range(0, len(numbers), PORTION)]

    with ThreadPoolExecutor(workers) as pool:
        ahead = submit(0)
        for start in range(0, len(wanted), batch):
            now, ahead = ahead, submit(start + batch)
            results = [result for future in now for result in future.result()]
            fresh = {row.digest: row.pixels for row in results if isinstance(row.pixels, list)}
            flat = [pixels for several in fresh.values() for pixels in several]
            stacked = medium.batched(np.stack(flat)) if fresh else torch.empty(0)
            counts = torch.tensor([len(several) for several in fresh.values()], dtype=torch.int64)
            told = list(zip(wanted[start:], results))
            faults = {number: row.pixels for number, row in told if isinstance(row.pixels, Fault)}
            lost = [(number, fault) for number, row in told if number not in faults for fault in row.lost]
            yield Decoded([row.digest for row in results], list(fresh), stacked, counts, faults, lost)


def digest_of(encoded: Sequence[bytes], beside: bytes = b"") -> bytes:
    """Return what tells the images of an item, and what lies beside them, apart from others; of one it is its own."""
    each = [hashlib.sha256(one + beside).digest()[:DIGEST] for one in encoded]
    return each[0] if len(each) == 1 else hashlib.sha256(b"".join(each)).digest()[:DIGEST]
