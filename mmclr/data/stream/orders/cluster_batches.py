"""An order in which every global batch comes from one cluster: a pure function of (seed, position), like the others."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmclr.data.columns.clusters import digest, groups
from mmclr.data.random import Words, key
from mmclr.data.shards.index import Ints
from mmclr.data.stream.order import Order, Stream
from mmclr.data.stream.permutation import permute
from mmclr.errors import UserError

BATCHES, INSIDE = 5, 6  # stages of the draws


class ClusterBatches(Order, key="cluster_batches"):
    """Draw every global batch from samples that earlier models find alike, so that what tells them apart must be new.

    Zhang et al., Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning (MCL), ECCV 2024, arXiv
    2402.11816. In stage s the samples of a batch share y_i = (c_i^0, ..., c_i^(s-1)), c^r the k-means clusters of the
    model of stage r:  L = the objective of the run, whose negatives are then those of one group. In use, embeddings of
    all stages stand side by side (`mmclr export stages`).
    Reduces to: the plain order without its incomplete last batch, for one cluster.
    Differs from the paper: ranks share each cluster's batch out; who is left out changes from epoch to epoch. An epoch
    has the whole batches of each group; a group of fewer samples than a batch is never drawn, and counted.
    """

    labels: tuple[str, ...]  # columns that `mmclr data cluster` wrote; all samples of a batch share each of them

    paper: ClassVar[str] = "mcl"
    alone: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    example: ClassVar[dict[str, Any]] = {"labels": ["stage0"]}

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels names no column; mmclr data cluster writes them")

    def setup(self, stream: Stream) -> None:
        """Read the labels of all samples, and lay out an epoch's batches."""
        self.arrange(groups([stream.labels(name) for name in self.labels]), stream.batch, stream.seed)

    def arrange(self, groups: Ints, batch: int, seed: int) -> None:
        """Lay out an epoch's batches. `groups` [samples]: which group each is in, 0 to the number of groups - 1."""
        self.groups, self.batch, self.seed = groups, batch, seed
        self.counts = np.bincount(groups)
        self.members = np.argsort(groups, kind="stable")  # group by group
        self.begins = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        whole = self.counts // batch
        self.of_batch = np.repeat(np.arange(len(whole)), whole)  # the group of each batch of an epoch
        self.place = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)  # and which of its group's
        self.length = len(self.of_batch) * batch
        small = int(self.counts[self.counts < batch].sum())
        self.left_out = {"small_group": small} if small else {}
        if not self.length:
            raise UserError(
                f"data.order: no group has data.batch={batch} samples (the largest has {self.counts.max()}); make "
                "fewer clusters (mmclr data cluster --k), or lower data.batch"
            )

    def at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return for each position the number of its sample, and which epoch this is. [b] each."""
        epoch, place = np.divmod(positions, self.length)
        number, slot = np.divmod(place, self.batch)
        keys = key(np.full(len(positions), self.seed), epoch)
        number = permute(number, len(self.of_batch), key(keys, BATCHES))
        group, slot = self.of_batch[number], self.place[number] * self.batch + slot
        sample = np.zeros_like(positions)
        for which in np.unique(group):
            mine = np.flatnonzero(group == which)
            inside = permute(slot[mine], int(self.counts[which]), key(keys[mine], INSIDE, int(which)))
            sample[mine] = self.members[self.begins[which] + inside]
        return sample, epoch

    def others(self, sample: Ints, words: Words) -> Ints:
        """Return samples of the same groups as `sample`, chosen by random words. [b] each."""
        group = self.groups[sample]
        return self.members[self.begins[group] + (words % self.counts[group].astype(np.uint64)).astype(np.int64)]

    def identity(self) -> dict[str, Any]:
        """Return a digest of the groups, and the size of batches that are drawn from them."""
        return {"groups": digest(self.groups), "batch": self.batch}
