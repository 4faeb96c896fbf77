"""A keyed bijection of [0, n): which sample stands where in an epoch, by arithmetic alone.

A Feistel network with cycle walking visits every sample once; O(1) memory at any n. With block > 1 whole blocks of
neighbours are permuted, and `window` of them are mixed, so that slow storage is read in long runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmclr.data.random import Words, key, splitmix
from mmclr.data.shards.index import Ints

ROUNDS = 8  # half-rounds of the Feistel network


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


def positions(start: int, count: int) -> NDArray[np.int64]:
    """Return the positions start, start + 1, ..., as `Order.at` takes them."""
    return np.arange(start, start + count, dtype=np.int64)
