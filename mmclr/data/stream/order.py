"""Which sample comes when: a pure function of (seed, position), so that nothing has to be stored or replayed.

Within an epoch a keyed bijection of [0, n) (a Feistel network with cycle walking) visits every sample once; O(1)
memory at any n. With block > 1 whole blocks of neighbours are permuted, and `window` of them are mixed, so that
slow storage is read in long runs. A mixture gives each position to a source by a schedule whose counts have a
closed form, so it too can begin anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mmclr.config import ConfigError
from mmclr.data.random import Words, key, splitmix
from mmclr.data.shards.index import Ints

ROUNDS = 8  # half-rounds of the Feistel network
PERIOD = 10_000  # longest schedule of a mixture, in positions


def permute(x: Ints, n: int, keys: Words) -> Ints:
    """Map each x in [0, n) to [0, n), one to one for equal keys. x, keys: [b]."""
    if n < 2:
        return np.zeros_like(x)
    bits = (n - 1).bit_length()
    out = _feistel(x.astype(np.uint64), bits, keys)
    while (far := np.flatnonzero(out >= n)).size:
        out[far] = _feistel(out[far], bits, keys[far])
    return out.astype(np.int64)


def _feistel(x: Words, bits: int, keys: Words) -> Words:
    """Permute [0, 2^bits): the halves take turns to be changed by a hash of the other."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << bits // 2) - 1)
    high_mask = np.uint64((1 << bits - bits // 2) - 1)
    low, high = x & low_mask, x >> low_bits
    for turn in range(0, ROUNDS, 2):
        high = high ^ (splitmix(keys + low + np.uint64(turn << 32)) & high_mask)
        low = low ^ (splitmix(keys + high + np.uint64(turn + 1 << 32)) & low_mask)
    return high << low_bits | low


def epoch_order(x: Ints, n: int, keys: Words, block: int = 1, window: int = 1) -> Ints:
    """Return which sample is at place x of an epoch of n samples, one to one. x, keys: [b]; keys say which epoch."""
    if block <= 1:
        return permute(x, n, keys)
    # A random turn of the circle of places, and one of samples: the block that is not whole is nowhere special.
    x = (x + _turn(keys, n, 1)) % n
    span = block * window
    whole = n // span * span
    in_window = np.where(x < whole, x % span, x - whole)
    mixed_keys = key(keys, x // span, 2)
    inside = np.where(x < whole, permute(in_window % span, span, mixed_keys), 0)
    if n > whole:
        tail = permute(np.where(x < whole, 0, in_window), n - whole, mixed_keys)
        inside = np.where(x < whole, inside, tail)
    slot = np.minimum(x // span * span, whole) + inside
    number = slot // block
    moved = permute(np.minimum(number, n // block - 1), n // block, key(keys, 3)) if n >= block else number
    sample = np.where(number < n // block, moved * block + slot % block, slot)
    return (sample + _turn(keys, n, 4)) % n


def _turn(keys: Words, n: int, stage: int) -> Ints:
    return (key(keys, stage) % np.uint64(n)).astype(np.int64)


class Mixture:
    """Deals positions to sources in proportion to their weights, as evenly as it can be done.

    After any number of positions each source is less than one sample away from its share. Weights whose ratios
    need a schedule of more than 10,000 positions are rounded to it.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        counts = self.ratio = _whole(weights)
        if min(counts) < 1:
            raise ConfigError(f"a source's weight is below 1 in {PERIOD} of all: leave it out or raise its weight")
        self.period = sum(counts)
        self.shares = [count / self.period for count in counts]
        self.schedule = _deal(counts, self.period)
        dealt = np.eye(len(counts), dtype=np.int64)[self.schedule]
        self._before = np.concatenate([np.zeros((1, len(counts)), np.int64), np.cumsum(dealt, 0)])

    def deal(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return the source of each position, and how many positions that source had before. [b] each."""
        source = self.schedule[positions % self.period]
        return source, self.counts(positions)[np.arange(len(positions)), source]

    def counts(self, positions: Ints) -> Ints:
        """Return how many of the first positions each source has: [b] -> [b, sources]."""
        whole, rest = np.divmod(positions, self.period)
        return whole[:, None] * self._before[-1] + self._before[rest]


def _whole(weights: Sequence[float]) -> list[int]:
    """Return whole numbers in the ratios of the weights, their sum at most PERIOD."""
    total = sum(weights)
    shares = [Fraction(weight / total).limit_denominator(PERIOD) for weight in weights]
    period = int(np.lcm.reduce([share.denominator for share in shares]))
    if period <= PERIOD and sum(shares) == 1:
        return [int(share * period) for share in shares]
    exact = [weight / total * PERIOD for weight in weights]
    counts = [int(value) for value in exact]
    for i in sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])[: PERIOD - sum(counts)]:
        counts[i] += 1
    return counts


def _deal(counts: Sequence[int], period: int) -> Ints:
    """Schedule `counts` over a period: of the sources that may be served, the one whose deadline is first.

    The j-th turn of a source may not come before (j - 1) / share and must come before j / share
    (R. Tijdeman, The chairman assignment problem, Discrete Math. 32, 1980): less than one away from its share.
    """
    wanted = np.array(counts, np.int64)
    given = np.zeros_like(wanted)
    schedule = np.zeros(period, np.int64)
    for t in range(period):
        ready = given * period < wanted * (t + 1)  # it is behind its share at the end of this turn
        deadline = np.where(ready, ((given + 1) * period - 1) // wanted, period * 2)
        schedule[t] = deadline.argmin()
        given[schedule[t]] += 1
    return schedule


class Order:
    """Position of the global stream -> (sample, epoch), over one source or a mixture of several."""

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        seed: int,
        block: int = 1,
        window: int = 16,
    ) -> None:
        self.sizes = list(sizes)
        self.begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.mixture = Mixture(weights) if len(sizes) > 1 else None
        self.seed, self.block, self.window = seed, block, window
        self.length = sum(sizes)  # positions of an epoch (in a mixture: as many as there are samples)

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
            keys = key(np.full(len(mine), self.seed), int(number), epoch[mine])
            sample[mine] = self.begins[number] + epoch_order(place, n, keys, self.block, self.window)
        return sample, epoch

    def others(self, sample: Ints, words: Words) -> Ints:
        """Return samples of the same sources as `sample`, chosen by random words. [b] each."""
        source = np.searchsorted(self.begins, sample, side="right") - 1
        return self.begins[source] + (words % np.array(self.sizes, np.uint64)[source]).astype(np.int64)

    def shares(self, position: int) -> list[float]:
        """Return which part of the first `position` samples came from each source."""
        if not self.mixture or position == 0:
            return [1.0] if not self.mixture else self.mixture.shares
        return (self.mixture.counts(np.array([position]))[0] / position).tolist()


def positions(start: int, count: int) -> NDArray[np.int64]:
    """Return the positions start, start + 1, ..., as `Order.at` takes them."""
    return np.arange(start, start + count, dtype=np.int64)
