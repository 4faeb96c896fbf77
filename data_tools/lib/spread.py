"""Mean and standard deviation of each band of images or channel of arrays, as a model sees them, for a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from mmclr.data_tools.lib import items
from numpy.typing import NDArray

from mmclr.data.pixels.array import Array
from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.images import Images
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.shards import Shards

KIND = "statistics of bands"
DIGITS = 6


class Spread(NamedTuple):
    """Of `images` images, each counted the same, in [0, 1]; of arrays in their own units."""

    mean: list[float]
    std: list[float]
    images: int


def measure(shards: Shards, numbers: Sequence[int], medium: Medium, ledger: Ledger, images: Images) -> Spread:
    """Return mean and standard deviation of the bands of all images of samples; `ledger` counts what cannot be decoded.

    Of a short array the steps that it has are counted.
    """
    sums, count = np.zeros((2, medium.shape[-1])), 0
    whole, arrays = 255 if medium.dtype is np.uint8 else 1, isinstance(medium, Array)
    for number in numbers:
        lost, views = list[Fault](), list[NDArray[Any]]()
        try:
            sample = shards.read(number)
            views = items.each(sample, images, medium, lambda _, opened: medium.plain(opened), lost)
        except Fault as fault:
            lost = [fault]
        ledger.add(shards.entry(number, fault) for fault in lost)
        for seen in views:
            pixels = seen.reshape(-1, seen.shape[-1]).astype(np.float64) / whole
            if arrays:
                pixels = pixels[~np.isnan(pixels[:, 0])]
            sums += [pixels.mean(0), (pixels**2).mean(0)]
            count += 1
    mean, square = sums / max(count, 1)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if arrays:
        return Spread(_significant(mean), _significant(std), count)
    return Spread(mean.round(DIGITS).tolist(), std.round(DIGITS).tolist(), count)


def _significant(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def constant(spread: Spread) -> list[int]:
    """Return which bands have one value everywhere, by which no model can divide; numbered from 1."""
    return [band for band, std in enumerate(spread.std, 1) if not std]


def text(spread: Spread, image: dict[str, Any], what: str) -> str:
    """Return a config to be laid under another one (`base:`); `image` is what --channels, --intensity, --array say."""
    std = [value or 1.0 for value in spread.std]
    intensity = image.get("intensity")
    tree: dict[str, Any] = {} if intensity is None else {"data": {"intensity": intensity}}
    own = {name: image[name] for name in ("channels", "array") if name in image}
    tree["model"] = {"image": {**own, "mean": spread.mean, "std": std}}
    return f"# {what}; lay it under a config with base:\n" + yaml.safe_dump(tree, sort_keys=False, width=110)
