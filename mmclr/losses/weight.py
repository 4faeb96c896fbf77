"""The weight of a term: a number, or a ramp over the progress of training; and the terms of a config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from mmclr.config import ConfigError, check, config
from mmclr.losses.objective import Objective, build

Share = Annotated[float, Ge(0), Le(1)]


@config
class Ramp:
    """A weight that goes from `start` to `end` while progress goes from `begin` to `until`."""

    start: float = 0.0  # weight before `begin`
    end: float = 1.0  # weight after `until`
    begin: Share = 0.0  # share of the training
    until: Share = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.until < self.begin:
            raise ValueError(f"until {self.until} comes before begin {self.begin}: swap them")

    def __call__(self, progress: float) -> float:
        """Return the weight at `progress`, 0 to 1."""
        span = self.until - self.begin
        done = min(1.0, max(0.0, (progress - self.begin) / span)) if span else float(progress >= self.begin)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


@config
class _Term:
    use: str
    weight: float | Ramp = 1.0


def build_terms(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Objective, Ramp]]:
    """Make the objectives of a config, {name: {use: key, weight: number or ramp, ...fields}}; `use` is the name by default."""
    terms, faults = {}, []
    for name, fields in tree.items():
        where = f"objectives.{name}"
        try:
            own = dict(fields or {})
            head = {key: own.pop(key) for key in ("use", "weight") if key in own}
            term = check(_Term, {"use": name, **head}, where)
            weight = term.weight if isinstance(term.weight, Ramp) else Ramp(start=term.weight, end=term.weight)
            terms[name] = (build(term.use, own, where), weight)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return terms
