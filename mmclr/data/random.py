"""Random numbers that are a pure function of what they are for: the same in any process, batch or order of use.

splitmix64 (G. Steele, D. Lea, C. Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), vectorised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix(x: Words) -> Words:
    """Scramble each word; a bijection of 64-bit words."""
    z = x + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(first: NDArray[np.generic], *parts: int | NDArray[np.generic]) -> Words:
    """Hash an array together with numbers or arrays of its shape, in this order."""
    out = splitmix(first.astype(np.uint64))
    for part in parts:
        word = part.astype(np.uint64) if isinstance(part, np.ndarray) else np.array([part], np.int64).astype(np.uint64)
        out = splitmix(out ^ splitmix(word))
    return out


def uniform(keys: Words, count: int) -> NDArray[np.float64]:
    """Return `count` numbers in [0, 1) for each key: [b] -> [b, count]."""
    words = splitmix(keys[:, None] + np.arange(count, dtype=np.uint64) * GOLDEN)
    return (words >> np.uint64(11)) * 2.0**-53
