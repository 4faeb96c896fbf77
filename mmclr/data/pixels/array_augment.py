"""Random changes of training arrays. Every draw is a function of (seed, epoch, sample, view, stage)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmclr.config import config
from mmclr.data.random import Words, key, uniform

CROP, SCALE, MASK, JITTER = range(4)  # stages
Floats = NDArray[np.float32]


@config
class ArrayAugment:
    """Changes of a training array. By default none, but that a window of too long a one is taken anywhere.

    Um et al., Data Augmentation of Wearable Sensor Data, ICMI 2017, arXiv 1706.00527, have jitter and scaling; masks
    over a stretch of time are those of SpecAugment, Interspeech 2019, arXiv 1904.08779. Time is not resampled.
    """

    crop: tuple[float, float] = (1.0, 1.0)  # share of the steps that is taken, of those that the model has room for
    jitter: float = 0.0  # Gaussian noise on each value, in standard deviations of its channel (model.image.std)
    scale: float = 0.0  # each channel's factor within 1 -+ this, about its mean (model.image.mean)
    mask: float = 0.0  # a stretch of up to this share of the steps becomes the mean; of a row, each value this likely

    def __post_init__(self) -> None:
        low, high = self.crop
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop is a range of shares above 0 and up to 1, the lower first, not {[low, high]}")
        for name in ("jitter", "scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.mask <= 1:
            raise ValueError(f"mask is a share, 0 to 1, not {self.mask}")


class Window(NamedTuple):
    """The changes of one array."""

    start: int  # the first step that is taken
    steps: int  # that are taken, at most the model's length
    scale: Floats | None = None  # [C] factors
    masked: NDArray[np.bool_] | None = None  # [steps, 1], or [1, C] of a row
    jitter: float = 0.0
    word: int = 0  # from which the noise is made

    def shrink(self, size: int) -> float:
        """Return 1: arrays are not resampled."""
        return 1.0

    def place(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom in shares of an array of size (steps, channels)."""
        return self.start / size[0], 0.0, (self.start + self.steps) / size[0], 1.0


def draw(how: ArrayAugment, sizes: NDArray[np.int64], keys: Words, length: int) -> list[Window]:
    """Draw what happens to arrays of `sizes` [b, 2] (steps, channels) for a model of `length` steps; 1: rows."""
    steps, channels = sizes.T
    low, high = how.crop
    share, at = uniform(key(keys, CROP), 2).T
    counts = np.maximum(1, np.round((low + (high - low) * share) * np.minimum(steps, length))).astype(np.int64)
    starts = np.floor((steps - counts + 1) * at).astype(np.int64)
    words = key(keys, JITTER).tolist() if how.jitter else [0] * len(keys)
    made = []
    for i, (start, count, wide) in enumerate(zip(starts.tolist(), counts.tolist(), channels.tolist())):
        mine = keys[i : i + 1]
        scale = _factors(how.scale, key(mine, SCALE), wide) if how.scale else None
        masked = _mask(how.mask, key(mine, MASK), count, wide, length == 1) if how.mask else None
        made.append(Window(start, count, scale, masked, how.jitter, words[i]))
    return made


def changed(x: Floats, window: Window, mean: Floats, std: Floats) -> Floats:
    """Return the steps x [steps, C] of an array scaled, jittered and masked; mean and std [C] are the channels'."""
    if window.scale is not None:
        x = mean + window.scale * (x - mean)
    if window.jitter:
        x = x + window.jitter * std * _normal(window.word, x.shape)
    return x if window.masked is None else np.where(window.masked, mean, x)


def _factors(spread: float, word: Words, channels: int) -> Floats:
    return (1 + spread * (2 * uniform(word, channels)[0] - 1)).astype(np.float32)


def _mask(share: float, word: Words, count: int, channels: int, row: bool) -> NDArray[np.bool_]:
    if row:
        return uniform(word, channels) < share
    wide, at = uniform(word, 2)[0].tolist()
    steps = round(share * wide * count)
    start = int(at * (count - steps + 1))
    places = np.arange(count)[:, None]
    return (places >= start) & (places < start + steps)


def _normal(word: int, shape: tuple[int, ...]) -> Floats:
    """Return standard normal numbers that are a function of `word` (Box and Muller, 1958)."""
    count = int(np.prod(shape))
    draws = uniform(np.array([word], np.uint64), 2 * -(-count // 2))[0]
    half = len(draws) // 2
    radius, angle = np.sqrt(-2 * np.log1p(-draws[:half])), 2 * np.pi * draws[half:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[:count].reshape(shape).astype(np.float32)
