"""The order of an ordinary run: a keyed bijection of each epoch's samples, over one source or a mixture of several."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmclr.data.random import Words, key
from mmclr.data.shards.index import Ints
from mmclr.data.stream.mixture import Mixture
from mmclr.data.stream.order import Order, Stream
from mmclr.data.stream.permutation import epoch_order


class Shuffled(Order, key="shuffled"):
    """Every sample once per epoch of its source, at random: with data.block, blocks of neighbours at random."""

    def setup(self, stream: Stream) -> None:
        """Take over the sizes of the sources, and deal positions to several."""
        self.sizes = list(stream.sizes)
        self.begins = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.mixture = Mixture(stream.weights) if len(self.sizes) > 1 else None
        self.seed, self.block, self.window = stream.seed, stream.block, stream.window
        self.length = sum(self.sizes)  # in a mixture: as many as there are samples

    def at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return for each position the number of its sample, and which epoch of its source this is. [b] each."""
        source = np.zeros_like(positions)
        turn = positions
        if self.mixture:
            source, turn = self.mixture.deal(positions)
        sample, epoch = np.zeros_like(positions), np.zeros_like(positions)
        for number in np.unique(source):
            mine = np.flatnonzero(source == number)
            n = self.sizes[number]
            epoch[mine], place = np.divmod(turn[mine], n)
            sample[mine] = self.begins[number] + self.placed(int(number), place, epoch[mine])
        return sample, epoch

    def placed(self, source: int, place: Ints, epoch: Ints) -> Ints:
        """Return which sample of a source is at a place of an epoch, one to one for equal epochs. [b] each."""
        keys = key(np.full(len(place), self.seed), source, epoch)
        return epoch_order(place, self.sizes[source], keys, self.block, self.window)

    def others(self, sample: Ints, words: Words) -> Ints:
        """Return samples of the same sources as `sample`, chosen by random words. [b] each."""
        source = np.searchsorted(self.begins, sample, side="right") - 1
        return self.begins[source] + (words % np.array(self.sizes, np.uint64)[source]).astype(np.int64)

    def shares(self, position: int) -> list[float]:
        """Return which part of the first `position` samples came from each source."""
        if not self.mixture or position == 0:
            return [1.0] if not self.mixture else self.mixture.shares
        return (self.mixture.counts(np.array([position]))[0] / position).tolist()

    def identity(self) -> dict[str, Any]:
        """Return what its arithmetic begins with, beside the samples and the seed."""
        blocks = {"block": self.block, **({"window": self.window} if self.block > 1 else {})}
        return {**blocks, **({"weights": self.mixture.ratio} if self.mixture else {})}
