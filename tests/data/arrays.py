"""Arrays as members of shards, for tests."""

import io

import numpy as np

from mmclr.data.pixels.array import Array
from mmclr.models.config import ArrayConfig

SIGNALS = ArrayConfig(channels=2, length=8, patch=2)
ROWS = ArrayConfig(channels=5, length=1)


def medium(kind=SIGNALS, mean=0.0, std=1.0, **settings):
    """Return how a model of such arrays reads them."""
    return Array(kind, [mean] * kind.channels, [std] * kind.channels, **settings)


def encoded(x, **settings):
    """Return the bytes of a .npy file."""
    out = io.BytesIO()
    np.save(out, np.asarray(x), **settings)
    return out.getvalue()


def series(steps, channels=2, seed=0, dtype=np.float32):
    """Return normal numbers [steps, channels]."""
    return np.random.default_rng(seed).normal(size=(steps, channels)).astype(dtype)
