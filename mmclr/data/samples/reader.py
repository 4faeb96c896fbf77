"""Every sample once, in its stored order, through the plain transform: what an evaluation reads.

The pixels equal open_clip's evaluation transform to the bit (short side resized with antialiased bicubic, centre
crop, RGB) for images without transparency and without an EXIF turn, which are handled here and ignored there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmclr.data.pixels.choose import choose
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.medium import Side
from mmclr.data.samples import values
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.fields import Field, extensions, tree
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.workers import run_ahead


@dataclass
class Rows:
    """Consecutive samples that could be read; `faults` are those between them that could not."""

    pixels: Tensor  # uint8 [b, 3, H, W], or as the images' medium has them
    captions: list[list[str]]  # all of each sample
    keys: list[str]
    metadata: list[dict[str, Any]]  # the json member, {} where there is none
    label: Tensor  # int64 [b], -1 where there is none
    index: Tensor  # int64 [b], number of the sample in the dataset
    faults: list[Entry] = field(default_factory=list)


class Reader:
    """Iterates over all samples in order, in batches. `ledger` counts what could not be read."""

    def __init__(
        self,
        urls: str | Sequence[str],
        image: Side | int,
        batch: int = 256,
        workers: int = 0,
        caption: str | dict[str, float] | None = "txt",
        label: str = "",
        split: Literal["none", "lines", "sentences"] = "none",
        max_pixels: int = MAX_PIXELS,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Open the shards. `image` is what the model sees, or the size of photographs.

        `caption` None takes samples without one; rank r of W reads every W-th batch.
        """
        fields = {caption: 1.0} if isinstance(caption, str) else caption or {}
        self.ledger = Ledger()
        self._chooser = Chooser(fields, split) if fields else None
        self._label = Field(label) if label else None
        self.medium = medium = choose(image, max_pixels=max_pixels)
        extras = ("json", *medium.beside, *extensions([label]))
        indices = open_indices(expand(urls))
        self.shards = Shards(indices, extensions(list(fields)), extras, self.ledger, medium.members)
        self.batch, self.workers = batch, workers
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """Return the number of samples, of all ranks together, those with faults counted."""
        return len(self.shards)

    def __iter__(self) -> Iterator[Rows]:
        step = self.batch * self.world
        starts = range(self.rank * self.batch, len(self), step)
        for rows in run_ahead(self._rows, starts, self.workers):
            self.ledger.add(rows.faults)
            yield rows

    def _rows(self, start: int) -> Rows:
        found: list[tuple[Any, ...]] = []
        shape = self.medium.shape
        faults: list[Entry] = []
        for number_ in range(start, min(start + self.batch, len(self))):
            lost: list[Fault] = []
            try:
                found.append((number_, *self._sample(number_, lost)))
            except Fault as fault:
                lost = [fault]
            where = self.shards.where(number_) if lost else None
            faults += [where._replace(reason=fault.reason, detail=fault.detail) for fault in lost if where]
        index, pixels, captions, keys, metadata, label = list(zip(*found)) if found else [()] * 6
        return Rows(
            pixels=self.medium.batched(np.stack(pixels) if pixels else np.zeros((0, *shape), self.medium.dtype)),
            captions=list(captions),
            keys=list(keys),
            metadata=list(metadata),
            label=torch.tensor(label, dtype=torch.int64),
            index=torch.tensor(index, dtype=torch.int64),
            faults=faults,
        )

    def _sample(self, at: int, lost: list[Fault]) -> tuple[Any, list[str], str, dict[str, Any], int]:
        sample = self.shards.read(at)
        pixels = self.medium.plain(self.medium.open(sample.image(self.medium.members), sample.members))
        texts = self._chooser.candidates(sample, lost) if self._chooser else []
        label = int(values.read("class", self._label, sample)) if self._label else -1
        metadata = _metadata(sample.members.get("json"))
        return pixels, [text for _, part in texts for text in part], sample.key, metadata, label


def read_all(urls: str | Sequence[str], image: Side | int, **settings: Any) -> Reader:
    """Return an iterable over all samples of shards, in order: see Reader."""
    return Reader(urls, image, **settings)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float], axes: int = 2) -> Tensor:
    """Return pixels [..., C, H, W] as float32 as models take them: (x - mean) / std, of uint8 with x / 255 for x.

    Behind the channels there are `axes` axes: 1 of arrays [..., C, T].
    """
    shape = (-1, *[1] * axes)
    means = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    stds = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    x = pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels.to(torch.float32, copy=True)
    return x.sub_(means).div_(stds)


def _metadata(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    value = tree(data, "json")
    return value if isinstance(value, dict) else {"json": value}
