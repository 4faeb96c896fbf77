"""Random draws of a step that belong to a sample, not to the rank or row where it happens to be.

A step seeds the generators alike on every rank. `seed` takes one number from them, and what is drawn for a sample is a
hash of it and of the sample's number: splitmix64 (Steele et al., Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmclr import parallel


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
