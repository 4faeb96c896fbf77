"""An order in which samples that belong together stand side by side: a pure function of (seed, position)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmclr.data.columns.clusters import digest
from mmclr.data.random import key
from mmclr.data.shards.index import Ints
from mmclr.data.stream.order import Stream
from mmclr.data.stream.orders.shuffled import Shuffled
from mmclr.data.stream.permutation import epoch_order, permute

CHUNKS, MEMBERS = 7, 8  # stages of the draws


class Siblings(Shuffled, key="siblings"):
    """Let samples of one group (a patient, a recording, a product) come one after the other, so that batches have both.

    Wang et al., Contrast Everything: A Hierarchical Contrastive Framework for Medical Time-Series (COMET), NeurIPS
    2023, arXiv 2310.14017, which shuffles trials in place of samples. Each epoch cuts every group at random into
    chunks of `together` samples and a rest, and draws the chunks in random order.
    Reduces to: single samples in random order, for groups of one, or together 1.
    Differs from the paper: an upper size of what stays together. The end of a batch may cut one chunk in two.
    """

    column: str  # says which group a sample is in (mmclr data label); what has none (-1) is alone
    together: int = 4  # samples of a group side by side, at most; 0: all of it

    paper: ClassVar[str] = "siblings"
    example: ClassVar[dict[str, Any]] = {"column": "group"}

    def __post_init__(self) -> None:
        if self.together < 0:
            raise ValueError(f"together is at least 1, or 0 for whole groups, not {self.together}")

    def setup(self, stream: Stream) -> None:
        """Read the groups of all samples, and cut them into chunks."""
        super().setup(stream)
        labels = stream.labels(self.column)
        self.digest = digest(labels)
        ends = self.begins + np.array(self.sizes)
        self.parts = [_Part(labels[begin:end], self.together) for begin, end in zip(self.begins, ends)]

    def placed(self, source: int, place: Ints, epoch: Ints) -> Ints:
        """Return which sample of a source is at a place of an epoch, one to one for equal epochs. [b] each."""
        part, sample = self.parts[source], np.zeros_like(place)
        for number in np.unique(epoch):
            mine = np.flatnonzero(epoch == number)
            order, ends = self._drawn(source, int(number))
            at = np.searchsorted(ends, place[mine], side="right")
            chunk = order[at]
            slot = part.offset[chunk] + place[mine] - (ends[at] - part.size[chunk])
            group = part.group[chunk]
            keys = key(np.full(len(mine), self.seed), source, int(number), MEMBERS, group)
            sample[mine] = part.members[part.begin[group] + _within(slot, part.count[group], keys)]
        return sample

    def identity(self) -> dict[str, Any]:
        """Return a digest of the groups and what is together, beside what any order begins with."""
        return {**super().identity(), "groups": self.digest, "together": self.together}

    def _drawn(self, source: int, epoch: int) -> tuple[Ints, Ints]:
        """Return the chunks of a source in an epoch's order, and at which place each ends. Kept until another comes."""
        part = self.parts[source]
        if part.drawn is None or part.drawn[0] != epoch:
            count = len(part.size)
            keys = key(np.full(count, self.seed), source, epoch, CHUNKS)
            order = epoch_order(np.arange(count), count, keys, self.block, self.window)
            part.drawn = epoch, order, np.cumsum(part.size[order])
        return part.drawn[1], part.drawn[2]


class _Part:
    """The groups of one source, in the order of their first samples, so that neighbours in shards stay neighbours."""

    def __init__(self, labels: Ints, together: int) -> None:
        alone = np.arange(len(labels)) + (labels.max(initial=-1) + 1)  # what has no group is one by itself
        _, first, group = np.unique(np.where(labels < 0, alone, labels), return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        group = rank[group]
        self.members = np.argsort(group, kind="stable")  # group by group
        self.count = np.bincount(group)
        self.begin = np.cumsum(self.count) - self.count
        most = together or int(self.count.max(initial=1))
        chunks = -(-self.count // most)
        self.group = np.repeat(np.arange(len(chunks)), chunks)  # of each chunk
        number = np.arange(len(self.group)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        self.offset = number * most
        self.size = np.minimum(self.count[self.group] - self.offset, most)
        self.drawn: tuple[int, Ints, Ints] | None = None


def _within(slot: Ints, count: Ints, keys: Any) -> Ints:
    """Return the place of each slot in a random order of its group of `count` members. [b] each."""
    out = np.zeros_like(slot)
    for size in np.unique(count[count > 1]):
        mine = np.flatnonzero(count == size)
        out[mine] = permute(slot[mine], int(size), keys[mine])
    return out
