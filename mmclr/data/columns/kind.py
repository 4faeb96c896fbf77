"""Kinds of values that a column may hold, and the value that stands for a missing one."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDEST = 1 << 16  # numbers in a vector
FLOATS, INTEGERS = ("float16", "float32", "float64"), ("int8", "int16", "int32", "int64")
NUMBERS = (*INTEGERS, *FLOATS)
WRITTEN = re.compile(r"(\w+)(?:\[(\d{1,5})\])?")


class Kind(NamedTuple):
    """The kind of a column's values: "string", a number's dtype, or with a width above 0 vectors of that dtype.

    A missing value is NaN among floats, -1 among integers and "" among strings; of a vector, every number is it.
    """

    dtype: str
    width: int = 0

    def __str__(self) -> str:
        return f"{self.dtype}[{self.width}]" if self.width else self.dtype

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Return the kind that is written as "float32", "string" or "float16[512]". Raises ValueError."""
        found = WRITTEN.fullmatch(text.strip())
        kind = cls(found[1], int(found[2] or 0)) if found else cls("")
        if not kind.possible or (found and found[2] is not None and not kind.width):
            raise ValueError(f"{text!r} is no kind of value; kinds are string, {', '.join(NUMBERS)}, and float32[512]")
        return kind

    @property
    def possible(self) -> bool:
        """Whether columns of this kind are written and read."""
        text = self.dtype == "string" and not self.width
        return text or (self.dtype in NUMBERS and 0 <= self.width <= WIDEST)

    @property
    def missing(self) -> float | int | str:
        """The value that stands for a missing one."""
        return "" if self.dtype == "string" else np.nan if self.dtype in FLOATS else -1

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape of so many values."""
        return (rows, self.width) if self.width else (rows,)

    def empty(self, rows: int) -> NDArray[Any]:
        """Return so many missing values: [rows] or [rows, width]."""
        return np.full(self.shape(rows), self.missing, object if self.dtype == "string" else self.dtype)

    def is_missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values [n] or [n, width] are missing: [n]."""
        found = np.isnan(values) if self.dtype in FLOATS else values == self.missing
        return np.asarray(found.all(1) if self.width else found, bool)

    def cast(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values in this kind's dtype. Raises ValueError where that would change more than their last digits."""
        if self.dtype == "string":
            return values.astype(object)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(self.dtype)
            lost = cast != values if self.dtype in INTEGERS else np.isinf(cast) & np.isfinite(values)
        if lost.any():
            what = f"{values.dtype} of {values.min()} to {values.max()}"
            raise ValueError(f"{what} does not fit into {self.dtype}")
        return cast
