"""The way of deep images' numbers to [0, 1]: a range, given, measured, or said by each sample.

A number x becomes (x - low) / (high - low), cut at 0 and 1: what radiologists call a window, in the form that DICOM
(PS3.3 C.11.2.1.3.2) calls LINEAR_EXACT where it is given by its centre and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.config import config
from mmclr.data.samples.fields import Field, kind_of
from mmclr.data.samples.skipped import Fault

Bound = float | list[float] | str  # one number, one for each band, or json:FIELD of the sample
WHOLE = {"bool": 1, "uint8": 255, "uint16": 65535}  # ranges of dtypes that are agreed upon
TABLE = 1 << 17  # numbers of 16 bits from which on all that there can be are mapped once
EXAMPLES = "data.intensity={low: 0, high: 4095}, or {percentile: [1, 99]}, or {low: json:FIELD, high: json:FIELD}"


@config
class Intensity:
    """One of: low and high; center and width; percentile (of each band of the image itself)."""

    low: Bound | None = None  # becomes 0
    high: Bound | None = None  # becomes 1
    center: Bound | None = None  # (low + high) / 2
    width: Bound | None = None  # high - low
    percentile: tuple[float, float] | None = None  # of the band's pixels that become 0 and 1

    def __post_init__(self) -> None:
        pairs = [("low", "high"), ("center", "width"), ("percentile", "percentile")]
        given = [pair for pair in pairs if any(getattr(self, name) is not None for name in pair)]
        if len(given) != 1 or any(getattr(self, name) is None for name in given[0]):
            raise ValueError("intensity is low and high, or center and width, or percentile: one of the three, whole")
        first, second = (getattr(self, name) for name in given[0])
        for bound in (first, second):
            if isinstance(bound, str) and not (bound.startswith("json:") and bound[5:]):
                raise ValueError(f"intensity: {bound!r} is neither a number nor json:FIELD")
        if self.percentile is not None and not 0 <= self.percentile[0] < self.percentile[1] <= 100:
            raise ValueError(f"intensity.percentile: two of 0 to 100, the lower first, not {list(self.percentile)}")
        if not isinstance(first, str) and not isinstance(second, str) and self.percentile is None:
            low, high = self._bounds(np.asarray(first, np.float64), np.asarray(second, np.float64))
            if low.ndim and high.ndim and low.shape != high.shape:
                raise ValueError(f"intensity: {low.size} numbers and {high.size}; give one of each for every band")
            if not (low < high).all():
                raise ValueError(f"intensity: low {low.tolist()} is not below high {high.tolist()}")

    @property
    def beside(self) -> tuple[str, ...]:
        """Return which members of a sample it reads."""
        return (
            ("json",) if any(isinstance(bound, str) for bound in (self.low, self.high, self.center, self.width)) else ()
        )

    def tree(self) -> dict[str, Any]:
        """Return it as a config has it, without what is not set."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    def lengths(self) -> set[int]:
        """Return how many numbers it gives where it gives several."""
        return {len(bound) for bound in (self.low, self.high, self.center, self.width) if isinstance(bound, list)}

    def ranges(self, bands: NDArray[Any], beside: Mapping[str, bytes]) -> NDArray[np.float64]:
        """Return low and high of each band of an image [C, H, W], [C, 2]. Raises Fault."""
        if self.percentile is not None:
            return np.array([np.percentile(band, self.percentile) for band in bands], np.float64)
        pair = (self.low, self.high) if self.low is not None else (self.center, self.width)
        first, second = (self._said(bound, beside, len(bands)) for bound in pair)
        low, high = self._bounds(first, second)
        if not (low < high).all():
            raise Fault("no_range", f"its low {low.tolist()} is not below its high {high.tolist()}")
        return np.stack([low, high], 1)

    def _bounds(self, first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return (first, second) if self.low is not None else (first - second / 2, first + second / 2)

    def _said(self, bound: Any, beside: Mapping[str, bytes], count: int) -> NDArray[np.float64]:
        """Return a bound for each of `count` bands."""
        value = Field(bound).value(_Beside(beside)) if isinstance(bound, str) else bound
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and np.isfinite(n) for n in numbers):
            said = "is missing" if value is None else f"is {kind_of(value)}, not a number"
            raise Fault("no_range", f"{bound} {said}")
        if len(numbers) not in (1, count):
            raise Fault("no_range", f"{bound} has {len(numbers)} numbers, and the image {count} bands")
        return np.broadcast_to(np.asarray(numbers, np.float64), count)


class _Beside:
    """Members of a sample, in which fields are looked up."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.members = members


def to_unit(
    bands: NDArray[Any], intensity: Intensity | None, beside: Mapping[str, bytes] | None = None
) -> NDArray[np.float32]:
    """Return the numbers [C, H, W] of an image as float32 in [0, 1]; without an intensity by the range of their dtype.

    Raises Fault where they are not finite, or nothing says their range. A band of one value, of which no percentile is
    above another, becomes 0.
    """
    if bands.dtype.kind == "f" and not np.isfinite(bands).all():
        count = bands.size - int(np.isfinite(bands).sum())
        raise Fault(
            "bad_image", f"{count:,} of its {bands.size:,} numbers are NaN or infinite; fill them before packing"
        )
    if intensity is not None:
        ranges = intensity.ranges(bands, beside or {})
    elif (name := bands.dtype.name) in WHOLE:
        ranges = np.array([[0.0, WHOLE[name]]] * len(bands))
    else:
        raise Fault("no_range", f"{name} numbers have no agreed range; set {EXAMPLES}")
    out = np.empty(bands.shape, np.float32)
    for band, (low, high), place in zip(bands, ranges.tolist(), out):
        if band.dtype.kind == "u" and band.dtype.itemsize <= 2 and band.size > TABLE:
            every = np.arange(1 << 8 * band.dtype.itemsize)
            np.take(_scaled(every, low, high).astype(np.float32), band, out=place)
        else:
            place[:] = _scaled(band, low, high)
    return out


def _scaled(x: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    if low >= high:  # percentiles of a band of one value
        return np.zeros(x.shape)
    return np.clip((x.astype(np.float64) - low) / (high - low), 0.0, 1.0)
