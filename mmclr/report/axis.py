"""From data to pixels: linear and logarithmic axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis: data between `low` and `high` lie between pixels `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def of(cls, values: Iterable[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Axis:
        """Fit the finite values, with a little room; logarithmic only where all are positive."""
        finite = [v for v in values if math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        log = log and low > 0
        if log:
            return cls(low / 1.1, high * 1.1, start, end, True)
        room = pad * (high - low) if high > low else abs(high) * 0.1 or 1.0
        bottom = 0.0 if 0 <= low < 0.4 * high else low - room
        return cls(bottom, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, one decimal."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, 1e-300)) if self.log else value
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, about: int = 4) -> list[float]:
        """Return about so many round values inside the axis."""
        if self.log and self.high / self.low > 20:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            stride = max(1, (last - first) // about)
            return [10.0**e for e in range(first, last + 1, stride)]
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(step: float) -> float:
    """Return the nearest of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(step / power / m))) * power


def label(value: float) -> str:
    """Write a number as short as it can be read: 12k, 0.003, 2e-5."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    if size < 1e-3:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"
