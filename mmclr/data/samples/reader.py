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
from PIL import Image
from torch import Tensor

from mmclr.data.pixels.decode import MAX_PIXELS, Colour, EncodedImage
from mmclr.data.samples import values
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.fields import Field, extensions, tree
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.workers import run_ahead

THIN = 1 << 25  # pixels of a resized image above which only its middle is made


@dataclass
class Rows:
    """Consecutive samples that could be read; `faults` are those between them that could not."""

    pixels: Tensor  # uint8 [b, 3, H, W]
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
        image_size: int,
        batch: int = 256,
        workers: int = 0,
        caption: str | dict[str, float] | None = "txt",
        label: str = "",
        split: Literal["none", "lines", "sentences"] = "none",
        resample: Literal["bicubic", "bilinear"] = "bicubic",
        background: Colour = (255, 255, 255),
        max_pixels: int = MAX_PIXELS,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Open the shards. `caption` None takes samples without one; rank r of W reads every W-th batch."""
        fields = {caption: 1.0} if isinstance(caption, str) else caption or {}
        self.ledger = Ledger()
        self._chooser = Chooser(fields, split) if fields else None
        self._label = Field(label) if label else None
        extras = ("json", *extensions([label]))
        self.shards = Shards(open_indices(expand(urls)), extensions(list(fields)), extras, self.ledger)
        self.image_size, self.batch, self.workers = image_size, batch, workers
        self.resample, self.background, self.max_pixels = resample, background, max_pixels
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
            pixels=torch.from_numpy(_stack(pixels, self.image_size)).permute(0, 3, 1, 2),
            captions=list(captions),
            keys=list(keys),
            metadata=list(metadata),
            label=torch.tensor(label, dtype=torch.int64),
            index=torch.tensor(index, dtype=torch.int64),
            faults=faults,
        )

    def _sample(self, at: int, lost: list[Fault]) -> tuple[Any, list[str], str, dict[str, Any], int]:
        sample = self.shards.read(at)
        image = EncodedImage(sample.image(), self.max_pixels).pixels(self.background)
        texts = self._chooser.candidates(sample, lost) if self._chooser else []
        label = int(values.read("class", self._label, sample)) if self._label else -1
        metadata = _metadata(sample.members.get("json"))
        pixels = np.asarray(plain(image, self.image_size, self.resample))
        return pixels, [text for _, part in texts for text in part], sample.key, metadata, label


def read_all(urls: str | Sequence[str], image_size: int, **settings: Any) -> Reader:
    """Return an iterable over all samples of shards, in order: see Reader."""
    return Reader(urls, image_size, **settings)


def plain(image: Image.Image, size: int, resample: str = "bicubic", resize: str = "crop") -> Image.Image:
    """Resize the short side of an image to `size` and cut out the middle; resize "squash": both sides to `size`."""
    if resize == "squash":
        return image.resize((size, size), Image.Resampling[resample.upper()])
    width, height = image.size
    short = min(width, height)
    before = image.size
    if short != size:
        width, height = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    if max(width, height) * size > THIN:
        return _middle(image, size, resample, (left, top, width, height))
    if before != (width, height):
        image = image.resize((width, height), Image.Resampling[resample.upper()])
    return image.crop((left, top, left + size, top + size))


def _middle(image: Image.Image, size: int, resample: str, place: tuple[int, int, int, int]) -> Image.Image:
    """Make the middle alone of a thin image, whose whole would be millions of pixels; place: left, top, width, height.

    It is the same up to the rounding of where the filter's taps lie.
    """
    left, top, width, height = place
    across, down = image.width / width, image.height / height
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    return image.resize((size, size), Image.Resampling[resample.upper()], (left * across, top * down, right, bottom))


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 pixels [..., 3, H, W] as float32 as models take them: ((x / 255) - mean) / std."""
    shape = (3, 1, 1)
    means = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    stds = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    return pixels.to(torch.float32).div_(255).sub_(means).div_(stds)


def _metadata(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    value = tree(data, "json")
    return value if isinstance(value, dict) else {"json": value}


def _stack(pixels: Sequence[Any], size: int) -> Any:
    return np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
