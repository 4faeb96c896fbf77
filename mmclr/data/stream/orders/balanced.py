"""An order in which rare classes come more often than they are there: a pure function of (seed, position)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmclr.config import ConfigError
from mmclr.data.columns.clusters import digest
from mmclr.data.random import Words, key
from mmclr.data.shards.index import Ints
from mmclr.data.stream.mixture import PERIOD, Mixture
from mmclr.data.stream.order import Order, Stream
from mmclr.data.stream.permutation import epoch_order
from mmclr.errors import UserError


class Balanced(Order, key="balanced"):
    """Deal positions to classes by their size to the power 1 - beta: 0 leaves shares as they are, 1 makes them equal.

    Bai et al., Towards Distribution-Agnostic Generalized Category Discovery (BaCon), NeurIPS 2023, arXiv 2310.01376,
    who keep a sample of class k with probability (n_min / n_k)^beta; its class then has a share of n_k^(1 - beta).
    Reduces to: every sample once per epoch, in random order of even classes, for beta 0.
    Differs from the paper: shares are dealt evenly in place of drawn; classes are of a column, not of predictions that
    change. What has no class (-1) is one class. Each class has epochs of its own.
    """

    column: str  # says which class a sample is of (mmclr data label, mmclr data cluster)
    beta: float = 0.5  # 0 to 1

    paper: ClassVar[str] = "balanced"
    alone: ClassVar[bool] = True
    blocks: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    example: ClassVar[dict[str, Any]] = {"column": "label"}

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta is 0 to 1, not {self.beta}")

    def setup(self, stream: Stream) -> None:
        """Read the classes of all samples, and deal positions to them. Raises UserError where one is too rare."""
        labels = stream.labels(self.column)
        _, self.classes, self.counts = np.unique(np.maximum(labels, -1), return_inverse=True, return_counts=True)
        self.members = np.argsort(self.classes, kind="stable")  # class by class, in shards' order
        self.begins = np.cumsum(self.counts) - self.counts
        self.seed, self.block, self.window = stream.seed, stream.block, stream.window
        self.length, self.digest = len(labels), digest(labels)
        try:
            self.mixture = Mixture((self.counts ** (1 - self.beta)).tolist())
        except ConfigError:
            raise UserError(
                f"data.order: a class of the column {self.column} would be below 1 in {PERIOD} of all: leave rare ones "
                "out (mmclr data label --least), or raise beta"
            ) from None

    def at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return for each position the number of its sample, and which epoch of its class this is. [b] each."""
        which, turn = self.mixture.deal(positions)
        epoch, place = np.divmod(turn, self.counts[which])
        keys, sample = key(np.full(len(positions), self.seed), which, epoch), np.zeros_like(positions)
        for number in np.unique(which):
            mine = np.flatnonzero(which == number)
            inside = epoch_order(place[mine], int(self.counts[number]), keys[mine], self.block, self.window)
            sample[mine] = self.members[self.begins[number] + inside]
        return sample, epoch

    def others(self, sample: Ints, words: Words) -> Ints:
        """Return samples of the same classes as `sample`, chosen by random words. [b] each."""
        which = self.classes[sample]
        return self.members[self.begins[which] + (words % self.counts[which].astype(np.uint64)).astype(np.int64)]

    def identity(self) -> dict[str, Any]:
        """Return a digest of the classes and what their shares are made of."""
        blocks = {"block": self.block, **({"window": self.window} if self.block > 1 else {})}
        return {**blocks, "classes": self.digest, "beta": self.beta}
