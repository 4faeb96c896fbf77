"""Clusters that follow a training: means, counts and spreads of what the model lately said of many samples.

A reservoir keeps the newest features of up to `reservoir` samples, shared out among ranks; from time to time Lloyd's
rounds move the means to where the features are by then. What is kept and where the means begin hangs on the samples'
numbers and on the step alone, and sums are taken in float64: clusters are the same for any number of ranks, but for
the rounding of a float64. Everything is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmclr import parallel, sample_random
from mmclr.losses.objective import Facts
from mmclr.losses.per_sample_state import Table

RESERVOIR = 1 << 16  # samples whose features are kept
ROUNDS = 10  # of Lloyd's, each time
SAMPLES_EACH = 4  # there is no more than one cluster for so many samples that are kept
TAKEN = 256  # samples of a batch that are kept, about, if there are no more clusters than that
CELLS = 1 << 22  # distances that exist at a time


class Clusters(nn.Module):
    """One set of clusters: `means` [K, D], `counts` [K] and `spreads` [K] of their samples.

    A spread is the mean distance of a cluster's samples to its mean. A cluster that became empty has the count 0.
    """

    means: Tensor
    counts: Tensor
    spreads: Tensor

    def __init__(self, clusters: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(clusters, width))
        self.register_buffer("counts", torch.zeros(clusters))
        self.register_buffer("spreads", torch.zeros(clusters))

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """Return the number of the nearest cluster that is not empty: [b, D] -> int64 [b]."""
        return nearest(x, torch.where(self.counts[:, None] > 0, self.means.to(x), torch.inf))[0]

    @torch.no_grad()
    def fit(self, x: Tensor, numbers: Tensor, warm: bool, rounds: int, salt: int) -> None:
        """Move the means by rounds of Lloyd's over the rows of all ranks; all ranks must call.

        x [n, D] are this rank's rows and int64 numbers [n] their samples, each once over all ranks. Without `warm` the
        means begin at samples; an empty cluster begins anew at one. `salt` decides which samples that are.
        """
        x, count = x.double(), len(self.means)
        means = self.means.double() if warm else starts(x, numbers, count, salt)
        for number in range(rounds):
            sums = self._sums(x, means)
            found = sums[:, :-2] / sums[:, -2:-1]
            empty = (sums[:, -2] == 0).nonzero()[:, 0]
            if len(empty):
                found[empty] = starts(x, numbers, len(empty), salt + 1 + number)
            if torch.equal(found, means):
                break
            means = found
        members, distances = self._sums(x, means)[:, -2:].unbind(1)
        self.means.copy_(means)
        self.counts.copy_(members)
        self.spreads.copy_(distances / members.clamp_min(1))

    def _sums(self, x: Tensor, means: Tensor) -> Tensor:
        """Return for each cluster the sum of its samples, how many they are, and their distances, [K, D + 2]."""
        which, distance = nearest(x, means)
        sums = x.new_zeros(len(means), x.shape[1] + 2)
        return parallel.total(sums.index_add(0, which, torch.cat([x, torch.ones_like(distance), distance], 1)))


class Clustering(nn.Module):
    """Several sets of clusters of one reservoir of features; the clustering's item t is the set t.

    The owner calls `keep` in its forward and `update` in its after_step. `ready` says whether there are clusters yet:
    they begin when the reservoir has two samples for each, and move when the number of steps has doubled since, or
    after `refresh` steps. `clusters` are cut to one for every 4 samples of the reservoir.
    """

    steps: Tensor
    moved: Tensor

    def __init__(
        self, clusters: Sequence[int], facts: Facts, refresh: int, reservoir: int = RESERVOIR, rounds: int = ROUNDS
    ) -> None:
        super().__init__()
        if min(*clusters, refresh, reservoir, rounds, 2) < 1:
            raise ValueError("clusters, refresh and reservoir are at least 1")
        size = max(1, min(reservoir, facts.samples or reservoir))
        counts = [max(1, min(count, size // SAMPLES_EACH)) for count in clusters]
        self.refresh, self.rounds, self.most = refresh, rounds, max(counts)
        self.share = max(TAKEN, self.most, size // refresh) / max(1, facts.batch)  # of a batch that is kept
        self.features, self.samples = Table(size, torch.zeros(facts.width)), Table(size, torch.tensor([-1]))
        self.sets = nn.ModuleList(Clusters(count, facts.width) for count in counts)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("moved", torch.zeros((), dtype=torch.int64))  # the step at which they moved; 0: not yet

    def __getitem__(self, number: int) -> Clusters:
        """Return a set of clusters."""
        return cast(Clusters, self.sets[number])

    def __iter__(self) -> Iterator[Clusters]:
        """Yield each set of clusters."""
        return (self[number] for number in range(len(self.sets)))

    @property
    def ready(self) -> bool:
        """Whether there are clusters yet."""
        return bool(self.moved > 0)

    def keep(self, index: Tensor, x: Tensor) -> None:
        """Keep some of the batch for `update`: the samples' numbers [b] and features [b, D]."""
        if torch.is_grad_enabled():
            drawn = sample_random.uniform(index, sample_random.scramble(self.steps), 1)[:, 0]
            at = (drawn < self.share).nonzero()[:, 0]
            self._found = index[at], x.detach()[at]

    @torch.no_grad()
    def update(self) -> None:
        """Write what was kept into the reservoir, and move the means if it is time. All ranks must call."""
        with parallel.equally_many(False):
            self._write(*self._found)
            self.steps += 1
            step, moved = int(self.steps), int(self.moved)
            if moved and step - moved < min(self.refresh, moved):
                return
            x, numbers = self.memory()
            if not moved and parallel.count(x) < 2 * self.most:
                return
            for clusters in self:
                clusters.fit(x, numbers, warm=moved > 0, rounds=self.rounds, salt=step)
            self.moved += step - moved

    def memory(self) -> tuple[Tensor, Tensor]:
        """Return the features [n, D] that lie on this rank, float32, and the numbers of their samples [n]."""
        filled = (self.samples.rows[:, 0] >= 0).nonzero()[:, 0]
        return self.features.rows[filled], self.samples.rows[filled, 0]

    def _write(self, index: Tensor, x: Tensor) -> None:
        """Put samples to their places; of several that have the same one, that with the largest number stays."""
        place = index % self.samples.count
        every = parallel.gather(torch.stack([place, index], 1))
        places, at = torch.unique(every[:, 0], return_inverse=True)
        last = index.new_full((len(places),), -1).scatter_reduce(0, at, every[:, 1], "amax")
        place = torch.where(last[torch.searchsorted(places, place)] == index, place, -1)
        self.features.write(place, x.to(self.features.rows))
        self.samples.write(place, index[:, None])


def nearest(x: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the nearest mean and the distance to it: [n, D], [K, D] -> int64 [n], [n, 1].

    A mean of infinite numbers is never the nearest.
    """
    there = means.isfinite().all(1)
    means = torch.where(there[:, None], means, 0.0)
    half = torch.where(there, means.square().sum(1) / 2, torch.inf)
    rows = max(1, CELLS // len(means))
    found = [(part @ means.T - half).argmax(1) for part in x.split(rows)]
    which = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=x.device)
    return which, (x - means[which]).norm(dim=1, keepdim=True)


def starts(x: Tensor, numbers: Tensor, count: int, salt: int) -> Tensor:
    """Return the rows of `count` samples of all ranks whose numbers have the smallest hashes, [count, D].

    Where there are fewer samples, some come again. All ranks must ask.
    """
    words = sample_random.scramble(numbers + sample_random.scramble(torch.tensor(salt, device=x.device)))
    order = words.argsort()[:count]
    with parallel.equally_many(False):
        rows = parallel.rows_of(len(order))
        words, found = rows.gather(words[order]), rows.gather(x[order])
    chosen = words.argsort()[:count]
    return found[chosen[torch.arange(count, device=x.device) % len(chosen)]]
