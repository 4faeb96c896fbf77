"""The weight of a term in the sum: a number, or a ramp over the training.

In a config: `weight: 0.5`, or `weight: {first: 0, last: 1, begin: 0.1, end: 0.5}`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import pydantic

from mmclr.config import config


@config
class Ramp:
    """A weight that goes from `first` to `last` while the training goes from `begin` to `end`."""

    first: float  # weight until `begin`
    last: float  # weight from `end` on
    begin: float = 0.0  # share of the training, 0 to 1
    end: float = 1.0  # share of the training, not before `begin`
    shape: Literal["linear", "cosine"] = "linear"  # cosine starts and ends flat

    def __post_init__(self) -> None:
        """Refuse a ramp that would run backwards in time."""
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(f"a ramp needs 0 <= begin <= end <= 1, not begin {self.begin} and end {self.end}")

    def __call__(self, progress: float) -> float:
        """Return the weight when the share `progress` of the training is done, 0 to 1."""
        if progress >= self.end:
            return self.last
        if progress <= self.begin:
            return self.first
        share = (progress - self.begin) / (self.end - self.begin)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.first + (self.last - self.first) * share


def _from_number(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Ramp(first=value, last=value) if number else value


def _to_number(ramp: Ramp) -> Any:
    return ramp.last if ramp.first == ramp.last else dataclasses.asdict(ramp)


# The type of a config's field that takes a number or a ramp; its value is always a Ramp.
Weight = Annotated[Ramp, pydantic.BeforeValidator(_from_number), pydantic.PlainSerializer(_to_number)]
