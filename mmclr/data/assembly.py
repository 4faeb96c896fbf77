"""From a position of the global stream to a batch of tensors: what a loader's worker does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmclr.data import augment
from mmclr.data.augment import Canvas, Recipe
from mmclr.data.batch import Batch
from mmclr.data.captions import Chooser, Field, identity, number, text_id
from mmclr.data.decode import Picture
from mmclr.data.index import Ints
from mmclr.data.ledger import Entry, Fault
from mmclr.data.order import Order
from mmclr.data.random import Words, key
from mmclr.data.settings import DataConfig
from mmclr.data.shards import Shards, bounds
from mmclr.errors import UserError

SUBSTITUTE, TEXT = -1, -2  # stages of the draws that belong to no view
ATTEMPTS = 20  # substitutes for one row before the run ends
TOGETHER = 128  # pictures whose draws are made at once


class Stored(NamedTuple):
    """A sample before anything random happens to it."""

    size: tuple[int, int]  # width, height
    picture: Picture | Canvas  # its header, or its pixels when it is kept in memory
    texts: list[tuple[float, list[str]]]
    image_id: int
    label: int
    weight: float
    key: str

    @property
    def cost(self) -> int:
        """Return the bytes it takes in memory, about: Pillow keeps RGB in 4 bytes."""
        pixels = self.picture.image.width * self.picture.image.height if isinstance(self.picture, Canvas) else 0
        return 4 * pixels + 1500 + 2 * sum(len(text) for _, texts in self.texts for text in texts)


@dataclass(frozen=True)
class Start:
    """A job of a worker: the first position of a global batch, and how many of its rows are real."""

    position: int
    count: int


class Rows:
    """The arrays of a batch while they are filled."""

    def __init__(self, count: int, size: int, views: int, captions: int) -> None:
        self.pixels = np.zeros((1 + views, count, size, size, 3), np.uint8)
        self.texts = [[""] * captions for _ in range(count)]
        self.ids = np.full((count, 3), -1, np.int64)  # image, caption, label
        self.weights = np.zeros(count, np.float32)
        self.keys = [""] * count


class Assembler:
    """Makes this rank's rows of the global batch at a position. Nothing in it changes what it makes."""

    def __init__(
        self,
        config: DataConfig,
        parts: list[Shards],
        order: Order,
        tokenizer: Any,
        image_size: int,
        seed: int,
        rank: int,
        world: int,
        captions: int,
    ) -> None:
        self.config, self.parts, self.order, self.tokenizer = config, parts, order, tokenizer
        self.image_size, self.seed = image_size, seed
        self.rows = config.batch // world
        self.first = rank * self.rows
        self.chooser = Chooser(config.captions(), config.split, config.edits, captions, config.max_characters)
        self.captions = captions
        self.augments = [config.augment] + [config.view_augment] * config.views
        self.label = Field(config.label) if config.label else None
        self.weight = Field(config.weight) if config.weight else None
        self.begins = bounds(parts)
        self.keep = config.cache_bytes // max(config.workers, 1) if config.cache == "decoded" else 0
        self._stored: dict[int, Stored] = {}
        self._tokens: dict[str, list[int]] = {}

    def __call__(self, start: Start) -> Batch:
        """Return the rows of this rank in the global batch that begins at `start`."""
        real = max(0, min(self.rows, start.count - self.first))
        sample, epoch = self.order.at(start.position + self.first + np.arange(real, dtype=np.int64))
        rows = Rows(self.rows, self.image_size, self.config.views, self.captions)
        faults: list[Entry] = []
        pending = np.arange(real)
        for attempt in range(ATTEMPTS):
            bad = [row for part in _chunks(pending) for row in self._fill(rows, part, sample, epoch, faults)]
            if not bad or self.config.faults != "substitute":
                break
            pending = np.array(bad)
            sample[pending] = self._substitutes(sample[pending], epoch[pending], attempt)
        else:
            raise UserError(f"{ATTEMPTS} samples in a row cannot be used, the last: {faults[-1]}")
        return self._batch(rows, np.concatenate([sample, np.full(self.rows - real, -1)]), faults)

    def _fill(self, rows: Rows, part: Ints, sample: Ints, epoch: Ints, faults: list[Entry]) -> list[int]:
        """Fill the rows `part`; return those whose sample cannot be used."""
        words = key(np.full(len(part), self.seed), epoch[part], sample[part])
        text_words = key(words, TEXT)
        opened = [self._open(int(n)) for n in sample[part]]
        sizes = np.array([s.size if isinstance(s, Stored) else (1, 1) for s in opened], np.int64)
        recipes = [
            augment.draw(how, sizes, key(words, view), self.image_size) for view, how in enumerate(self.augments)
        ]
        bad = []
        for i, (row, stored) in enumerate(zip(part.tolist(), opened)):
            if isinstance(stored, Stored):
                try:
                    self._paint(rows, row, stored, [drawn[i] for drawn in recipes])
                    self._write(rows, row, stored, text_words[i : i + 1], int(sample[row]), faults)
                    continue
                except Fault as fault:
                    stored = self._entry(int(sample[row]), fault)
            faults.append(stored)
            bad.append(row)
        return bad

    def _paint(self, rows: Rows, row: int, stored: Stored, recipes: list[Recipe]) -> None:
        """Put the views of a picture into their places. Raises Fault."""
        canvas = stored.picture
        if isinstance(canvas, Picture):
            canvas = self._canvas(canvas, min(recipe.shrink(self.image_size) for recipe in recipes))
        for view, recipe in enumerate(recipes):
            pixels = augment.cut(canvas, recipe, self.image_size, self.config.resample)
            rows.pixels[view, row] = np.frombuffer(pixels, np.uint8).reshape(rows.pixels.shape[2:])

    def _canvas(self, picture: Picture, shrink: float) -> Canvas:
        image = picture.pixels(self.config.background, shrink)
        factor = max(1, round(picture.size[0] / image.width))
        return augment.canvas(image, factor, self.augments, self.config.background)

    def _write(self, rows: Rows, row: int, stored: Stored, word: Words, sample: int, faults: list[Entry]) -> None:
        """Put everything but the pixels of a sample into its place."""
        texts = self.chooser.choose(stored.texts, word)
        for at, text in enumerate(texts):
            if len(text) > self.config.max_characters:
                faults.append(self._entry(sample, Fault("cut_caption", f"{len(text)} characters")))
                texts[at] = text[: self.config.max_characters]
        rows.texts[row] = texts
        rows.ids[row] = stored.image_id, text_id(texts[0]), stored.label
        rows.weights[row] = stored.weight
        rows.keys[row] = stored.key

    def _open(self, sample: int) -> Stored | Entry:
        """Read a sample and the header of its picture, or take it from memory."""
        if sample in self._stored:
            return self._stored[sample]
        try:
            part = int(np.searchsorted(self.begins, sample, side="right")) - 1
            found = self.parts[part].read(sample - int(self.begins[part]))
            data = found.image()
            picture = Picture(data, self.config.max_pixels, self.config.decoder == "turbo")
            label = int(number(self.label, found, -1, words=True)) if self.label else -1
            weight = float(number(self.weight, found, 1.0)) if self.weight else 1.0
            stored = Stored(
                picture.size, picture, self.chooser.candidates(found), identity(data), label, weight, found.key
            )
            if self.config.cache == "decoded":
                stored = stored._replace(picture=self._canvas(picture, 1.0))  # whole, whether it is kept or not
                if stored.cost <= self.keep:
                    self.keep -= stored.cost
                    self._stored[sample] = stored
            return stored
        except Fault as fault:
            return self._entry(sample, fault)

    def _entry(self, sample: int, fault: Fault) -> Entry:
        part = int(np.searchsorted(self.begins, sample, side="right")) - 1
        where = self.parts[part].where(sample - int(self.begins[part]))
        return where._replace(reason=fault.reason, detail=fault.detail)

    def _substitutes(self, sample: Ints, epoch: Ints, attempt: int) -> Ints:
        """Return other samples of the same sources, drawn by what they stand for."""
        part = np.searchsorted(self.begins, sample, side="right") - 1
        sizes = (self.begins[part + 1] - self.begins[part]).astype(np.uint64)
        words = key(np.full(len(sample), self.seed), epoch, sample, SUBSTITUTE, attempt)
        return self.begins[part] + (words % sizes).astype(np.int64)

    def _batch(self, rows: Rows, index: Ints, faults: list[Entry]) -> Batch:
        encoded = self._encode([text for texts in rows.texts for text in texts])
        order = np.arange(self.rows)
        if self.config.bucket:
            order = np.argsort([len(ids) for ids in encoded[:: self.captions]], kind="stable")
            encoded = [encoded[row * self.captions + m] for row in order for m in range(self.captions)]
        tokens, lengths = self.tokenizer.pad(encoded)
        image_id, caption_id, label = torch.from_numpy(rows.ids[order].T.copy())
        pixels = torch.from_numpy(_take(rows.pixels, order)).permute(0, 1, 4, 2, 3)  # in memory channels last
        return Batch(
            pixels=pixels[0],
            views=pixels[1:].transpose(0, 1) if self.config.views else None,
            tokens=tokens,
            lengths=lengths,
            image_id=image_id,
            caption_id=caption_id,
            label=label,
            index=torch.from_numpy(index[order]),
            weights=torch.from_numpy(rows.weights[order]),
            keys=[rows.keys[row] for row in order],
            faults=faults,
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of texts; those of kept samples are kept too."""
        if self.config.cache != "decoded":
            return self.tokenizer.encode(texts)
        new = list(dict.fromkeys(text for text in texts if text not in self._tokens))
        fresh = dict(zip(new, self.tokenizer.encode(new))) if new else {}
        known = {**self._tokens, **fresh} if not self._room(fresh) else self._tokens
        return [known[text] for text in texts]

    def _room(self, fresh: dict[str, list[int]]) -> bool:
        """Keep new token ids if the memory that is left allows it."""
        cost = sum(200 + 40 * len(ids) for ids in fresh.values())
        if cost > self.keep:
            return False
        self.keep -= cost
        self._tokens.update(fresh)
        return True


def _chunks(rows: Ints) -> list[Ints]:
    return [rows[at : at + TOGETHER] for at in range(0, len(rows), TOGETHER)]


def _take(rows: NDArray[np.uint8], order: Ints) -> NDArray[np.uint8]:
    return rows if (order[:-1] < order[1:]).all() else rows[:, order]
