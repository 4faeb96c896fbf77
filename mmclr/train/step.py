"""One training step as one module: sources make features, objectives make terms, the weighted sum is the loss.

This is the object that accelerate, DeepSpeed, FSDP and compile wrap. It knows no paper by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import vocabulary
from mmclr.config import ConfigError
from mmclr.losses.objective import Facts
from mmclr.losses.terms import Term

FROM_BATCH = {name for name, feature in vocabulary.FEATURES.items() if feature.source == "batch"}


class Step(nn.Module):
    """batch -> (total, terms). Only the features that an objective asks for are computed."""

    def __init__(self, sources: Sequence[nn.Module], terms: Mapping[str, Term]) -> None:
        """`terms` maps a term's name to its objective and its weight; of two sources the first gives a feature."""
        super().__init__()
        self.sources = nn.ModuleList(sources)
        self.objectives = nn.ModuleDict({name: term.objective for name, term in terms.items()})
        self.weights = {name: term.weight for name, term in terms.items()}
        self.wanted = frozenset(need for term in terms.values() for need in term.objective.needs)
        provided = FROM_BATCH | {"progress"} | {name for source in sources for name in source.provides}
        for name, term in terms.items():
            lacking = [need for need in term.objective.needs if need not in provided]
            if lacking:
                raise ConfigError(f"objectives.{name} needs {lacking[0]!r}, which nothing in this run provides")

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its terms before weighting (detached), at `progress` in [0, 1]."""
        return self.score(self.features(batch, progress), progress)

    def features(self, batch: Any, progress: float) -> dict[str, Tensor]:
        """Return {name: tensor} of all that the objectives asked for."""
        found = {name: getattr(batch, name) for name in self.wanted & FROM_BATCH}
        for source in self.sources:
            found.update(source(batch, self.wanted - found.keys()))
        if "progress" in self.wanted:
            found["progress"] = torch.tensor(progress, device=batch.pixels.device)
        return found

    def score(self, features: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the objectives over features, and each term before weighting (detached)."""
        total: Tensor | float = 0.0
        terms: dict[str, Tensor] = {}
        for name, objective in self.objectives.items():
            value = objective(**{need: features[need] for need in objective.needs})  # type: ignore[attr-defined]
            terms[name] = value.detach()
            total = total + self.weights[name](progress) * value
        assert isinstance(total, Tensor)
        return total, terms

    def setup(self, facts: Facts) -> None:
        """Let every objective create its state."""
        for objective in self.objectives.values():
            objective.setup(facts)  # type: ignore[operator]

    def after_step(self) -> None:
        """Let every part update its state after the optimizer's step."""
        for part in (*self.sources, *self.objectives.values()):
            update = getattr(part, "after_step", None)
            if update is not None:
                update()
