"""Random draws of a step that belong to a sample, not to the rank or row where it happens to be.

A step seeds the generators alike on every rank. `seed` takes one number from them, and what is drawn for a sample is a
hash of it and of the sample's number: splitmix64 (Steele et al., Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mmclr import parallel

TRIES = 40  # candidates for a draw of the beta distribution; each is taken with probability 1/2 or more
QUANTILES = 1 << 14  # of the beta distribution in a table


def seed(like: Tensor) -> Tensor:
    """Return the step's next random number, int64 [], on the device of `like`; the same on every rank."""
    return torch.randint(1 << 62, ()).to(like.device)


def scramble(x: Tensor) -> Tensor:
    """Return int64 numbers that look random, the same for the same x."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def uniform(numbers: Tensor, seed: Tensor, count: int) -> Tensor:
    """Return `count` numbers in [0, 1) for each sample number: int64 [n] -> float64 [n, count]."""
    words = scramble(scramble(numbers + seed)[:, None] + torch.arange(1, count + 1, device=numbers.device))
    return _shifted(words, 11).double() * 2.0**-53


def pair(rows: Tensor, cols: Tensor, seed: Tensor) -> Tensor:
    """Return a number in [0, 1) for each pair of sample numbers: int64 [n] and [m] -> float64 [n, m].

    (i, k) and (k, i) have numbers of their own.
    """
    words = scramble(scramble(rows + seed)[:, None] + scramble(scramble(cols) + seed))
    return _shifted(words, 11).double() * 2.0**-53


def beta(numbers: Tensor, seed: Tensor, a: float, b: float) -> Tensor:
    """Return a draw of Beta(a, b) for each sample number: int64 [n] -> float64 [n].

    By M. Johnk, Metrika 8, 1964, where a and b are at most 1, else as `to_beta`.
    """
    if max(a, b) > 1:
        return to_beta(uniform(numbers, seed, 1)[:, 0], a, b)
    first, second = uniform(numbers, seed, 2 * TRIES).clamp_min(1e-300).log().chunk(2, 1)
    x, y = first / a, second / b
    size = torch.logaddexp(x, y)
    taken = (size <= 0).double().argmax(1, keepdim=True)
    return (x - size).gather(1, taken)[:, 0].exp()


def to_beta(drawn: Tensor, a: float, b: float) -> Tensor:
    """Return numbers in [0, 1) as draws of Beta(a, b), float64: one table look-up each, so that all pairs can have one.

    Between quantiles it is linear: no probability is off by more than 1/QUANTILES.
    """
    quantiles = _quantiles(a, b, drawn.device)
    place = drawn.double() * QUANTILES
    at = place.long()
    return torch.lerp(quantiles[at], quantiles[at + 1], place - at)


@functools.lru_cache(maxsize=8)
def _quantiles(a: float, b: float, device: torch.device) -> Tensor:
    """Return those of Beta(a, b) from 0 to 1, [QUANTILES + 1]."""
    from scipy.special import betaincinv

    levels = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(a, b, levels.numpy())).to(device)


def partners(index: Tensor, seed: Tensor) -> Tensor:
    """Return for each of this rank's samples the global row of another: [b] -> [b].

    The rows of all ranks stand in a random circle and each has the next for its partner: nobody is his own.
    """
    rows = parallel.rows_of(len(index))
    order = scramble(rows.gather(index) + seed).argsort(stable=True)
    after = torch.empty_like(order)
    after[order] = order.roll(-1)
    return rows.own(after)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right as unsigned numbers do: torch's shift would copy the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
