"""From a position of the global stream to a batch of tensors: what a loader's worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmclr.data.pixels.medium import Drawn, Medium, Whole
from mmclr.data.random import Words, key, uniform
from mmclr.data.samples.captions import Chooser, text_id
from mmclr.data.samples.field_readers import Reader, arrays
from mmclr.data.samples.images import usable
from mmclr.data.samples.skipped import Entry, Fault
from mmclr.data.samples.store import Image, Store, Stored
from mmclr.data.settings import DataConfig
from mmclr.data.shards.index import Ints
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.batch import Batch
from mmclr.data.stream.cuts import IMAGES, MORE, cuts, places
from mmclr.data.stream.order import Order
from mmclr.errors import UserError

SUBSTITUTE, TEXT, SETS = -1, -2, -3  # stages of the draws that belong to no view
ATTEMPTS = 20  # substitutes for one row before the run ends
TOGETHER = 128  # images whose draws are made at once
ROOM = 1 << 28  # bytes of theirs, as stored
Images = dict[str, Image]  # of one sample, by what the cuts call them


@dataclass(frozen=True)
class Start:
    """A job of a worker: the first position of a global batch, and how many of its rows are real."""

    position: int
    count: int


class Rows:
    """The arrays of a batch while they are filled."""

    def __init__(
        self, count: int, medium: Medium, cuts: int, texts: int, readers: Mapping[str, Reader], sources: int = 0
    ) -> None:
        self.pixels = np.zeros((cuts, count, *medium.shape), medium.dtype)
        self.boxes = np.zeros((count, cuts, 4), np.float32)
        self.counts = np.ones(count, np.int64)  # of images that become one
        self.texts = [[""] * texts for _ in range(count)]
        self.has_text = np.zeros((count, sources), bool)  # which of them have a caption
        self.ids = np.full((count, 2), -1, np.int64)  # image, caption
        self.draws = np.zeros(count, np.uint64)
        self.fields = arrays(readers, count)
        self.keys = [""] * count


class Assembler:
    """Makes this rank's rows of the global batch at a position. Nothing in it changes what it makes."""

    def __init__(
        self,
        config: DataConfig,
        parts: list[Shards],
        order: Order,
        readers: Mapping[str, Reader],
        tokenizer: Any,
        medium: Medium,
        seed: int,
        rank: int,
        world: int,
        captions: int,
    ) -> None:
        self.config, self.order, self.tokenizer = config, order, tokenizer
        self.medium, self.seed, self.captions = medium, seed, captions
        self.rows = config.batch // world
        self.first = rank * self.rows
        self.chooser = Chooser(
            config.captions(),
            config.split,
            config.edits,
            captions,
            config.text_views,
            config.view_edits,
            config.text_sources,
        )
        self.of_sources = captions + config.text_views  # where the texts of sources begin among those of a sample
        self.made, self.cuts = config.makers(), cuts(config, medium)
        self.places = places(self.cuts)
        self.alone = [at for at, cut in enumerate(self.cuts) if cut.image == "image"]
        self.several = ["image", *(cut.image for cut in self.cuts if cut.of == MORE)]
        self.store = Store(config, parts, readers, self.chooser, medium)

    def __call__(self, start: Start) -> Batch:
        """Return the rows of this rank in the global batch that begins at `start`."""
        real = max(0, min(self.rows, start.count - self.first))
        sample, epoch = self.order.at(start.position + self.first + np.arange(real, dtype=np.int64))
        sources = len(self.config.text_sources)
        rows = Rows(self.rows, self.medium, len(self.cuts), self.of_sources + sources, self.store.readers, sources)
        faults: list[Entry] = []
        pending = np.arange(real)
        for attempt in range(ATTEMPTS):
            parts = _chunks(pending, self.store.bytes_of(sample[pending]))
            bad = [row for part in parts for row in self._fill(rows, part, sample, epoch, faults)]
            if not bad or self.config.faults != "substitute":
                break
            pending = np.array(bad)
            words = key(np.full(len(bad), self.seed), epoch[pending], sample[pending], SUBSTITUTE, attempt)
            sample[pending] = self.order.others(sample[pending], words)
        else:
            raise UserError(f"{ATTEMPTS} samples in a row cannot be used, the last: {faults[-1]}")
        if self.made:
            rows.draws[:real] = key(np.full(real, self.seed), epoch, sample, SETS)
        return self._batch(rows, np.concatenate([sample, np.full(self.rows - real, -1)]), faults)

    def _fill(self, rows: Rows, part: Ints, sample: Ints, epoch: Ints, faults: list[Entry]) -> list[int]:
        """Fill the rows `part`; return those whose sample cannot be used."""
        words = key(np.full(len(part), self.seed), epoch[part], sample[part])
        text_words = key(words, TEXT)
        opened = list(self.store.open(sample[part].tolist()))
        images = [
            {} if not isinstance(s, Stored) else s.images if not s.others else self._chosen(s, words[i : i + 1])
            for i, s in enumerate(opened)
        ]
        recipes = self._draw(images, words)
        bad = []
        for i, (row, stored) in enumerate(zip(part.tolist(), opened)):
            if isinstance(stored, Stored):
                try:
                    lost = self._paint(rows, row, images[i], words[i : i + 1], [drawn[i] for drawn in recipes])
                    if lost:
                        faults += [self.store.entry(int(sample[row]), fault) for fault in lost]
                    self._write(rows, row, stored, text_words[i : i + 1], int(sample[row]), faults)
                    continue
                except Fault as fault:
                    stored = self.store.entry(int(sample[row]), fault)
            faults.append(stored)
            bad.append(row)
        return bad

    def _chosen(self, stored: Stored, word: Words) -> Images:
        """Return the images of a sample that this step sees: of those that are many a random part, in their order."""
        several = stored.several
        if len(several) > len(self.several):
            draws = uniform(key(word, IMAGES), len(several))[0].argsort()[: len(self.several)]
            several = tuple(several[at] for at in sorted(draws.tolist()))
        return {**stored.images, **dict(zip(self.several, several))}

    def _draw(self, images: Sequence[Images], words: Words) -> list[Sequence[Drawn]]:
        """Draw what happens to the images of samples, cut by cut."""
        sizes = {
            name: np.array([own[name].size if name in own else (1, 1) for own in images], np.int64)
            for name in dict.fromkeys(cut.image for cut in self.cuts)
        }
        return [self.medium.draw(cut.augment, sizes[cut.image], key(words, *cut.stage)) for cut in self.cuts]

    def _paint(self, rows: Rows, row: int, images: Images, word: Words, recipes: list[Drawn]) -> list[Fault]:
        """Put what is cut of a sample's images into its place. Raises Fault.

        Those of several that cannot be decoded are returned: the others move up, and are drawn anew.
        """
        if len(images) == 1:  # as in most data
            image = images["image"]
            shrink = 1.0 if image.opened is None else min(recipes[at].shrink(self.medium.size) for at in self.alone)
            whole = image.decode(self.medium, shrink)
            for at in self.alone:
                rows.pixels[at, row] = self.medium.cut(whole, recipes[at])
                rows.boxes[row, at] = recipes[at].place(image.size)
            return []
        lost: list[Fault] = []
        while len(wholes := self._decode(images, recipes, lost)) < len(images):
            left = [images[name] for name in self.several if name in wholes]
            images = {name: image for name, image in images.items() if name not in self.several}
            images |= dict(zip(self.several, left))
            recipes = [drawn[0] for drawn in self._draw([images], word)]
        for at, (cut, drawn) in enumerate(zip(self.cuts, recipes)):
            if cut.image in images:
                rows.pixels[at, row] = self.medium.cut(wholes[cut.image], drawn)
                rows.boxes[row, at] = drawn.place(images[cut.image].size)
        rows.counts[row] = sum(name in images for name in self.several)
        return lost

    def _decode(self, images: Images, recipes: list[Drawn], lost: list[Fault]) -> dict[str, Whole]:
        """Return images decoded, as small as their cuts need them; one of several that cannot be is `lost`."""

        def one(name: str) -> tuple[str, Whole]:
            if images[name].opened is None:  # in memory, whole
                return name, images[name].decode(self.medium)
            shrinks = [drawn.shrink(self.medium.size) for cut, drawn in zip(self.cuts, recipes) if cut.image == name]
            return name, images[name].decode(self.medium, min(shrinks))

        found = usable([name for name in self.several if name in images], one, lost)
        return dict([*found, *(one(name) for name in images if name not in self.several)])

    def _write(self, rows: Rows, row: int, stored: Stored, word: Words, sample: int, faults: list[Entry]) -> None:
        """Put everything but the pixels of a sample into its place."""
        faults += [self.store.entry(sample, fault) for fault in stored.lost]
        texts = self.chooser.choose(stored.texts, word) + self.chooser.choose_of_sources(stored.sources, word)
        for at, text in enumerate(texts):
            if len(text) > self.config.max_characters:
                faults.append(self.store.entry(sample, Fault("cut_caption", f"{len(text)} characters")))
                texts[at] = text[: self.config.max_characters]
        rows.texts[row] = texts
        rows.has_text[row] = [bool(found) for found in stored.sources]
        rows.ids[row] = stored.image_id, text_id(texts[0])
        rows.keys[row] = stored.key
        for name, value in stored.fields.items():
            rows.fields[name][row] = value

    def _batch(self, rows: Rows, index: Ints, faults: list[Entry]) -> Batch:
        encoded = self.store.encode([text for texts in rows.texts for text in texts], self.tokenizer.encode)
        order, each = np.arange(self.rows), len(rows.texts[0])
        if self.config.bucket:
            order = np.argsort([len(ids) for ids in encoded[::each]], kind="stable")
            encoded = [encoded[row * each + m] for row in order for m in range(each)]
        tokens, lengths = (x.unflatten(0, (self.rows, each)) for x in self.tokenizer.pad(encoded))
        image_id, caption_id = torch.from_numpy(rows.ids[order].T.copy())
        boxes = torch.from_numpy(rows.boxes[order])
        pixels = self.medium.batched(_take(rows.pixels, order))
        return Batch(
            pixels=pixels[0],
            sets={name: pixels[at].transpose(0, 1) for name, at in self.places.items() if name not in ("image", MORE)},
            **self._further(rows, pixels, order),
            made=self.made,
            draws=torch.from_numpy(rows.draws[order].view(np.int64)) if self.made else None,
            view_boxes=boxes[:, self.places["views"]].contiguous() if self.config.views else None,
            tokens=tokens[:, : self.captions].flatten(0, 1),
            lengths=lengths[:, : self.captions].flatten(0, 1),
            text_view_tokens=tokens[:, self.captions : self.of_sources] if self.config.text_views else None,
            text_view_lengths=lengths[:, self.captions : self.of_sources] if self.config.text_views else None,
            text_source_tokens=tokens[:, self.of_sources :] if self.config.text_sources else None,
            text_source_lengths=lengths[:, self.of_sources :] if self.config.text_sources else None,
            has_text=torch.from_numpy(rows.has_text[order]) if self.config.text_sources else None,
            image_id=image_id,
            caption_id=caption_id,
            index=torch.from_numpy(index[order]),
            image_box=boxes[:, 0].contiguous(),
            fields={name: torch.from_numpy(values[order]) for name, values in rows.fields.items()},
            keys=[rows.keys[row] for row in order],
            faults=faults,
        )

    def _further(self, rows: Rows, pixels: Tensor, order: Ints) -> dict[str, Tensor]:
        """Return the further images of samples that may have several, and how many there are of each sample."""
        if MORE not in self.places:
            return {}
        counts = torch.from_numpy(rows.counts[order])
        return {"more": pixels[self.places[MORE]].transpose(0, 1), "image_counts": counts}


def _chunks(rows: Ints, sizes: Ints) -> list[Ints]:
    """Cut rows into parts of at most TOGETHER samples, which have at most ROOM bytes and one sample more."""
    cuts = np.diff(np.arange(len(rows)) // TOGETHER) | np.diff(np.cumsum(sizes) // ROOM)
    return np.split(rows, np.flatnonzero(cuts) + 1) if len(rows) else []


def _take(rows: NDArray[Any], order: Ints) -> NDArray[Any]:
    return rows if (order[:-1] < order[1:]).all() else rows[:, order]
