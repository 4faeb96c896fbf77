"""The loader: an endless stream of batches in which every sample comes once per epoch, wherever it is resumed.

Its state is the number of samples of the global stream that were handed out. Ranks and workers take positions of
that stream, never shards, so their numbers may change between a checkpoint and its continuation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from mmclr.batch_fields import FIELDS
from mmclr.data.pixels.choose import choose
from mmclr.data.pixels.medium import Medium, Side
from mmclr.data.samples import absent, field_readers
from mmclr.data.samples.captions import extensions
from mmclr.data.samples.images import Images
from mmclr.data.samples.reader import read_all
from mmclr.data.samples.skipped import Ledger
from mmclr.data.settings import DataConfig, Given, Source
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.shards.subset import read_subset
from mmclr.data.stream import resume
from mmclr.data.stream.batch import Batch
from mmclr.data.stream.batch_builder import Assembler, Start
from mmclr.data.stream.order import Order, Stream
from mmclr.data.stream.workers import run_ahead
from mmclr.errors import UserError

__all__ = ["Batch", "DataConfig", "Given", "Loader", "Source", "read_all"]


class Loader:
    """Batches of this rank. `image` is what the model sees, or the size of photographs; `captions` is M, per image.

    Raises UserError when shards are missing, hold no usable sample, or fewer samples than a batch.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Any,
        image: Side | int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        captions: int = 1,
    ) -> None:
        if config.batch % world:
            raise UserError(f"data.batch={config.batch} cannot be divided among {world} processes")
        self.config, self.rank, self.world = config, rank, world
        self.ledger = Ledger()
        medium = choose(image, config)
        self.parts = _open(config, medium, self.ledger)
        absent.check(self.parts, _fields(config))
        self.samples = sum(map(len, self.parts))
        if self.samples < config.batch:
            raise UserError(
                f"data.batch={config.batch} is larger than the data: {self.samples} usable samples; "
                f"lower data.batch\n" + "\n".join(self.ledger.lines())
            )
        self.readers = field_readers.build(config, self.parts)
        self.order = self._order(seed)
        self.assembler = Assembler(
            config, self.parts, self.order, self.readers, tokenizer, medium, seed, rank, world, captions
        )
        self._identity = resume.identity(self.parts, self.order, seed)
        self._read = 0  # rows of this rank that were handed out
        self.position = 0  # samples of the global stream that were handed out

    def _order(self, seed: int) -> Order:
        config, order = self.config, self.config.arranged()
        weights = [source.weight for source in config.sources().values()]
        labels = partial(field_readers.labels, self.parts)
        order.setup(Stream([*map(len, self.parts)], weights, seed, config.batch, labels, config.block, config.window))
        for reason, count in order.left_out.items():
            self.ledger.exclude(reason, count)
        return order

    @property
    def batches_per_epoch(self) -> int:
        """Return after how many batches every sample has been seen (in a mixture: as many samples as there are)."""
        return math.ceil(self.order.length / self.config.batch)

    @property
    def epoch(self) -> float:
        """Return how many epochs have been handed out."""
        return self.position / self.order.length

    @property
    def cluster_count(self) -> int:
        """Return how many clusters the labels of `data.clusters` tell apart; 0 without any."""
        return self.classes("clusters")

    def classes(self, name: str) -> int:
        """Return how many values a batch field tells apart; 0 where it has none, or nobody has counted them."""
        return self.readers[name].classes if name in self.readers else 0

    def class_counts(self, name: str) -> list[int]:
        """Return how many samples have each class of a field that is a column or the source; of others: []."""
        return [int(count) for count in getattr(self.readers.get(name), "counts", ())]

    def shares(self) -> dict[str, float]:
        """Return which part of the samples so far came from each source."""
        return dict(zip(self.config.sources(), self.order.shares(self.position)))

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches without end, from `position` on."""
        config = self.config
        batches = run_ahead(self.assembler, self._starts(), config.workers, config.patience, self._restarted)
        for start, batch in zip(self._starts(), batches):
            self.position = start.position + start.count
            self._read += len(batch.keys)
            self.ledger.add(batch.faults)
            self.ledger.check(self._read, config.faults, config.max_faults)
            yield batch.pin_memory() if torch.cuda.is_available() else batch

    def ahead(self) -> Iterator[Batch]:
        """Yield the batches that are to come, made as those of a run are, and hand out none of them."""
        config = self.config
        return run_ahead(self.assembler, self._starts(), config.workers, config.patience)

    def _starts(self) -> Iterator[Start]:
        position, batch = self.position, self.config.batch
        while True:
            count = batch
            if self.config.tail == "pad":
                count = min(batch, self.samples - position % self.samples)
            yield Start(position, count)
            position += count

    def _restarted(self) -> None:
        self.ledger.restarts += 1

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is, for a checkpoint: the same on every rank. Every rank must call it."""
        return {"position": self.position, **self._identity, "faults": self.ledger.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises UserError when the order of the samples is another: see `resume`."""
        resume.check(state, self._identity)
        self.position = int(state["position"])
        self.ledger.load_state_dict(state.get("faults", {}))


def _fields(config: DataConfig) -> dict[str, list[str]]:
    """Return the fields of samples that each setting names."""
    named = {"data.caption": list(config.captions()), "data.images": Images(config.images).addresses}
    named["data.text_sources"] = list(config.text_sources)
    for name, reader in field_readers.members(config).items():
        short = "" if name in config.fields else FIELDS[name].short
        named[f"data.{short or f'fields.{name}'}"] = [reader.field.text]
    return named | {f"data.{name}": [member] for name, member in config.members().items()}


def _open(config: DataConfig, medium: Medium, ledger: Ledger) -> list[Shards]:
    """Return the usable samples of each source."""
    captions = extensions(list(config.captions()))
    images, fields = Images(config.images), field_readers.members(config).values()
    addresses = [*config.text_sources, *(reader.field.text for reader in fields)]
    extras = medium.beside + images.beside + extensions(addresses)
    further = [*config.members().values()]
    subset = read_subset(config.subset) if config.subset else None
    parts = []
    for source in config.sources().values():
        indices = open_indices(expand(source.urls, config.allow_pipe))
        members = images.members((name for index in indices for name in index.extensions), medium.members)
        parts.append(Shards(indices, captions, extras, ledger, members, subset, further=further))
        parts[-1].alone, parts[-1].several = config.block == 1, images.several
    return parts
