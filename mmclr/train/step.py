"""One training step as one module: sources make features, objectives make terms, the weighted sum is the loss.

This is the object that accelerate, DeepSpeed, FSDP and compile wrap. It knows no paper by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import vocabulary
from mmclr.config import ConfigError
from mmclr.losses.blank import samples_alone
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import Term

FROM_BATCH = {name for name, feature in vocabulary.FEATURES.items() if feature.source == "batch"}

PER_SAMPLE = {name for name, feature in vocabulary.FEATURES.items() if feature.per_sample}
DENSE = {name for name, feature in vocabulary.FEATURES.items() if feature.dense}
LEARNT = {name for name, feature in vocabulary.FEATURES.items() if feature.source == "student"}

LOOKED = frozenset({"image", "text", "scale", "caption_id", "real"})


class Step(nn.Module):
    """batch -> (total, terms). Only the features that an objective asks for are computed."""

    def __init__(self, sources: Sequence[nn.Module], terms: Mapping[str, Term]) -> None:
        """`terms` maps a term's name to its objective and its weight; of two sources the first gives a feature."""
        super().__init__()
        self.sources = nn.ModuleList(sources)
        self.objectives = nn.ModuleDict({name: term.objective for name, term in terms.items()})
        self.weights = {name: term.weight for name, term in terms.items()}
        self.precision: torch.dtype | None = None  # that the sources compute in; objectives stay in float32
        self.dense = {name for name, term in terms.items() if DENSE.intersection(term.objective.needs)}
        self.wanted = self.needs(terms) | {"real"}
        provided = FROM_BATCH | {"progress"} | {name for source in sources for name in source.provides}
        for name, term in terms.items():
            lacking = [need for need in term.objective.needs if need not in provided]
            if lacking:
                what = vocabulary.FEATURES[lacking[0]].meaning
                raise ConfigError(f"objectives.{name} needs {lacking[0]} ({what}), which nothing in this run provides")

    def needs(self, names: Iterable[str]) -> frozenset[str]:
        """Return the features that the objectives of these names ask for."""
        return frozenset(need for name in names for need in self.objectives[name].needs)  # type: ignore[union-attr]

    def forward(
        self, batch: Any, progress: float, stage: str = "whole", given: Mapping[str, Tensor] | None = None
    ) -> Any:
        """Return (loss, terms before weighting, detached) at `progress` in [0, 1].

        The other stages are the parts of that for a batch that does not fit (see `accumulate`). Objectives that ask for
        dense features are `dense`, the others compare samples.

        "look":  features for diagnostics, asked for or not.
        "all":   the features that objectives ask for.
        "embed": the per-sample features that the others ask for, of the rows of `batch`.
        "score": (loss, terms) of the others; `given` are those features, and the batch's own, of all rows.
        "pull":  (pulled, loss, terms) of the rows of `batch`. loss and terms are what these rows add to those of
                 the dense objectives; the gradient of pulled is that of this loss, and the chain rule from the
                 gradients of per-sample features. `given` are these gradients, and the batch's own features.
        """
        if stage == "look":
            found = self.features(batch, progress, LOOKED)
            return {name: found[name] for name in LOOKED}
        if stage == "all":
            return self.features(batch, progress, self.wanted - FROM_BATCH)
        if stage == "whole":
            return self.score(self.features(batch, progress, self.wanted), progress, self.objectives)
        others = self.objectives.keys() - self.dense
        if stage == "embed":
            return self.features(batch, progress, self.needs(others) & PER_SAMPLE - FROM_BATCH)
        assert given is not None
        if stage == "score":
            found = self.features(batch, progress, self.needs(others) - PER_SAMPLE)
            return self.score({**given, **found}, progress, others)
        own = {name: value for name, value in given.items() if name in FROM_BATCH}
        gradients = {name: value for name, value in given.items() if name not in FROM_BATCH}
        found = {**own, **self.features(batch, progress, (self.needs(self.dense) | gradients.keys()) - own.keys())}
        loss, terms = self.score(found, progress, self.dense)
        pulled = sum((found[name] * gradient).sum() for name, gradient in gradients.items())
        return loss + pulled, loss.detach(), terms

    def features(self, batch: Any, progress: float, wanted: Set[str]) -> dict[str, Tensor]:
        """Return {name: tensor} of the wanted features."""
        found = {name: getattr(batch, name) for name in wanted & FROM_BATCH if name != "real" or hasattr(batch, name)}
        with torch.autocast(batch.pixels.device.type, self.precision, enabled=self.precision is not None):
            for source in self.sources:
                found.update(source(batch, wanted - found.keys()))
        if "progress" in wanted:
            found["progress"] = torch.tensor(progress, device=batch.pixels.device)
        return found

    def score(
        self, features: Mapping[str, Tensor], progress: float, names: Iterable[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the named objectives over features, and each term before weighting (detached).

        The scale is told with the terms: under FSDP and ZeRO nobody can read it between steps.
        """
        total: Tensor | float = 0.0
        terms: dict[str, Tensor] = {name: features[name].detach() for name in ("scale",) if name in features}
        with samples_alone(features) as kept:
            for name in self.objectives:
                if name not in names:
                    continue
                objective = self.objectives[name]
                needs: tuple[str, ...] = objective.needs  # type: ignore[union-attr,assignment]
                value = objective(**{need: kept.features[need] for need in needs})
                terms[name] = value.detach()
                total = total + self.weights[name](progress) * value
        return torch.as_tensor(total), terms

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
