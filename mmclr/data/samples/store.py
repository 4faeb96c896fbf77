"""Samples as they are before anything random happens to them: read, told apart, and kept in memory if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from mmclr.data.pixels.medium import Medium, Opened, Whole
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.field_readers import Reader
from mmclr.data.samples.fields import identity
from mmclr.data.samples.images import Images, usable
from mmclr.data.samples.skipped import Entry, Fault
from mmclr.data.settings import DataConfig
from mmclr.data.shards.index import Ints
from mmclr.data.shards.shards import Sample, Shards, bounds

REQUESTS = 16  # remote reads at the same time, in each worker
ABOUT = 1500  # bytes of Python's objects around a sample


class Image(NamedTuple):
    """An image of a sample."""

    size: tuple[int, int]  # width, height
    opened: Opened | None  # not decoded
    whole: Whole | None = None  # in its place, decoded, when it is kept in memory
    fault: Fault | None = None  # or why it cannot be

    def decode(self, medium: Medium, shrink: float = 1.0) -> Whole:
        """Return it decoded, smaller by at most `shrink`. Raises Fault."""
        if self.fault is not None:
            raise self.fault
        return self.whole if self.opened is None else medium.decode(self.opened, shrink)

    def kept(self, medium: Medium) -> Image:
        """Return it as it stays in memory."""
        try:
            return Image(self.size, None, self.decode(medium))
        except Fault as fault:
            return Image(self.size, None, fault=fault)


class Stored(NamedTuple):
    """A sample: its images, and everything about it that the batch holds."""

    images: dict[str, Image]  # "image" (of several the first) and pixel sets of further members
    texts: list[tuple[float, list[str]]]
    image_id: int  # of all that are `several`
    fields: dict[str, Any]  # values of the batch fields, by name
    key: str
    lost: tuple[Fault, ...] = ()  # captions, images and entries that cannot be used, beside others
    others: tuple[Image, ...] = ()  # those of data.images behind the first
    sources: tuple[list[str], ...] = ()  # captions of each of data.text_sources, [] where there is none

    @property
    def several(self) -> tuple[Image, ...]:
        """Return the images that become one: the one that there is, or those of data.images."""
        return (self.images["image"], *self.others)

    @property
    def cost(self) -> int:
        """Return the bytes that all but the images takes in memory, about."""
        captions = [*(texts for _, texts in self.texts), *self.sources]
        return ABOUT + 2 * sum(len(text) for texts in captions for text in texts)


class Store:
    """Gives samples by their numbers over all sources.

    With cache: decoded, whole images and token ids stay in memory once decoded, until `cache_bytes` are full: each
    sample is wanted once per epoch, so that none is more worth keeping than another. What is given is the same.
    """

    def __init__(
        self,
        config: DataConfig,
        parts: list[Shards],
        readers: Mapping[str, Reader],
        chooser: Chooser,
        medium: Medium,
    ) -> None:
        self.config, self.parts, self.readers, self.chooser, self.medium = config, parts, readers, chooser, medium
        self.images = Images(config.images)
        self.begins = bounds(parts)
        self.keeps = config.cache == "decoded"
        self.room = config.cache_bytes // max(config.workers, 1)
        self._remote = any(part.remote for part in parts)
        self._threads: ThreadPoolExecutor | None = None
        self._stored: dict[int, Stored] = {}
        self._tokens: dict[str, list[int]] = {}

    def open(self, numbers: list[int]) -> Iterator[Stored | Entry]:
        """Yield each sample, or why it cannot be used; remote ones are read several at a time."""
        return map(self._open, numbers, self._read_all(numbers))

    def first(self, sample: Sample) -> Opened:
        """Open the first image of a sample. Raises Fault."""
        return self.medium.open(self.images.of(sample, self.medium.members, [])[0], sample.members)

    def bytes_of(self, numbers: Ints) -> Ints:
        """Return how many bytes the members of samples have, about; 0 for those in memory."""
        sizes = np.zeros(len(numbers), np.int64)
        for at, number_ in enumerate(numbers.tolist()):
            if number_ not in self._stored:
                part = self._part(number_)
                sizes[at] = self.parts[part].bytes_of(number_ - int(self.begins[part]))
        return sizes

    def entry(self, sample: int, fault: Fault) -> Entry:
        """Return the ledger's line for a fault of a sample."""
        part = self._part(sample)
        where = self.parts[part].where(sample - int(self.begins[part]))
        return where._replace(reason=fault.reason, detail=fault.detail)

    def encode(self, texts: list[str], tokenize: Callable[[list[str]], list[list[int]]]) -> list[list[int]]:
        """Return the token ids of texts, from memory where they are kept."""
        if not self.keeps:
            return tokenize(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        fresh = dict(zip(new, tokenize(new))) if new else {}
        if self._take(sum(200 + 40 * len(ids) for ids in fresh.values())):
            self._tokens.update(fresh)
        return [self._tokens[text] if text in self._tokens else fresh[text] for text in texts]

    def _read_all(self, numbers: list[int]) -> Iterable[Sample | Fault | None]:
        if not self._remote:
            return map(self._read, numbers)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(REQUESTS)
        return self._threads.map(self._read, numbers)

    def _read(self, sample: int) -> Sample | Fault | None:
        """Return the bytes of a sample; None when it is in memory."""
        if sample in self._stored:
            return None
        try:
            part = self._part(sample)
            return self.parts[part].read(sample - int(self.begins[part]))
        except Fault as fault:
            return fault

    def _open(self, number_: int, found: Sample | Fault | None) -> Stored | Entry:
        try:
            if found is None:
                return self._stored[number_]
            if isinstance(found, Fault):
                raise found
            stored = self._parse(found, number_)
            if self.keeps:
                stored = self._decoded(stored)
                whole = [one.whole for one in (*stored.images.values(), *stored.others) if one.fault is None]
                if self._take(sum(map(self.medium.bytes_of, whole)) + stored.cost):
                    self._stored[number_] = stored
            return stored
        except Fault as fault:
            return self.entry(number_, fault)

    def _parse(self, sample: Sample, number_: int) -> Stored:
        """Read the headers of the images, the captions and the batch fields of a sample. Raises Fault."""
        lost: list[Fault] = []
        data = self.images.of(sample, self.medium.members, lost)
        found = usable(data, lambda file: self.medium.open(file, sample.members), lost)
        files = {name: sample.further(end) for name, end in self.config.members().items()}
        opened = {"image": found[0]} | {name: self.medium.open(file, sample.members) for name, file in files.items()}
        images = {name: Image(one.size, one) for name, one in opened.items()}
        others = tuple(Image(one.size, one) for one in found[1:])
        texts = self.chooser.candidates(sample, lost)
        values = {name: reader.value(sample, number_, lost) for name, reader in self.readers.items()}
        sources = self.chooser.of_sources(sample, lost)
        return Stored(images, texts, together(data), values, sample.key, tuple(lost), others, sources)

    def _decoded(self, stored: Stored) -> Stored:
        """Return a sample with its images decoded. Raises Fault where one cannot be, or, of several, none can."""
        images = {name: one.kept(self.medium) for name, one in stored.images.items()}
        kept = stored._replace(images=images, others=tuple(one.kept(self.medium) for one in stored.others))
        needed = [one.fault for name, one in images.items() if name != "image"]
        if all(one.fault is not None for one in kept.several):
            needed.insert(0, images["image"].fault)
        for fault in needed:
            if fault is not None:
                raise fault
        return kept

    def _take(self, cost: int) -> bool:
        """Take room for `cost` bytes, if there is any."""
        if cost > self.room:
            return False
        self.room -= cost
        return True

    def _part(self, sample: int) -> int:
        return int(np.searchsorted(self.begins, sample, side="right")) - 1


def together(images: Sequence[bytes]) -> int:
    """Return an int64 that equal lists of images share; of one image it is its own."""
    if len(images) == 1:
        return identity(images[0])
    return identity(b"".join(identity(image).to_bytes(8, "little", signed=True) for image in images))
