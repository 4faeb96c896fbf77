"""Orders over made-up data."""

import numpy as np

from mmclr.data.stream.order import Stream, build


def stream(sizes, weights=None, seed=0, batch=8, groups=5, **more):
    """Return what an order may know: `groups` random labels in each column, of which every tenth sample has none."""
    total = sum(sizes)

    def labels(name):
        found = np.random.default_rng(len(name)).integers(0, groups, total)
        return np.where(np.arange(total) % 10 == 9, -1, found)

    return Stream(sizes, weights or [1.0] * len(sizes), seed, batch, labels, **more)


def shuffled(sizes, weights, seed, **more):
    """Return the order of an ordinary run."""
    order = build("shuffled")
    order.setup(stream(sizes, weights, seed, **more))
    return order
