"""A mixture gives each position to a source by a schedule whose counts have a closed form, so it can begin anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mmclr.config import ConfigError
from mmclr.data.shards.index import Ints

PERIOD = 10_000  # longest schedule of a mixture, in positions


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
