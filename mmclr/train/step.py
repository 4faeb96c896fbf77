"""One training step as one module: providers make features, objectives make terms, the weighted sum is the loss.

This is the object that accelerate, DeepSpeed, FSDP and compile wrap. It knows no paper by name. Names of its weights,
in checkpoints and in optim.groups, begin with providers.NAME. or objectives.NAME.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import vocabulary
from mmclr.features.provider import Provider
from mmclr.features.wiring import Wiring
from mmclr.losses.blank import samples_alone
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import Term
from mmclr.models.two_tower import TwoTower

MODEL, EMA = "providers.student.model.", "providers.ema."  # how names of their weights begin
LOOKED = frozenset({"image", "text", "scale", "caption_id", "real"})


class Stage(Enum):
    """The method of a step that its forward is: what wraps a step lets nothing else be called."""

    WHOLE = "whole"
    LOOK = "look"
    FEATURES = "asked"
    EMBED = "embed"
    COMPARE = "compare"
    PULL = "pull"


class Step(nn.Module):
    """batch -> (total, terms). Only the features that an objective asks for are computed."""

    def __init__(self, providers: Mapping[str, Provider], terms: Mapping[str, Term]) -> None:
        """`terms` maps a term's name to its objective and its weight; of two providers the first gives a feature."""
        super().__init__()
        self.providers = nn.ModuleDict(providers)
        self.chosen = [
            name for name, provider in providers.items() if not provider.made_by
        ]  # by a config's `providers`
        self.objectives = nn.ModuleDict({name: term.objective for name, term in terms.items()})
        self.weights = {name: term.weight for name, term in terms.items()}
        self.precision: torch.dtype | None = None  # that providers compute in; objectives stay in float32
        self.from_batch, self.per_sample = vocabulary.names(provider="batch"), vocabulary.names(per_sample=True)
        self.wiring = Wiring(providers, self.from_batch | {"progress"})
        for name, term in terms.items():
            self.wiring.check(term.objective.needs, f"objectives.{name} needs")
        dense = vocabulary.names(dense=True)
        self.dense = {name for name, term in terms.items() if dense.intersection(term.objective.needs)}
        self.wanted = self.needs(terms) | {"real"}
        self.wiring.refuse_idle(self.wanted, self.chosen)

    def needs(self, names: Iterable[str]) -> frozenset[str]:
        """Return the features that the objectives of these names ask for."""
        return frozenset(need for name in names for need in self.objectives[name].needs)  # type: ignore[union-attr]

    def forward(
        self, batch: Any, progress: float, stage: Stage = Stage.WHOLE, given: Mapping[str, Tensor] | None = None
    ) -> Any:
        """Return what the method of the stage does, at `progress` in [0, 1]; by default (loss, terms) of the batch."""
        method = getattr(self, stage.value)
        return method(batch, progress) if given is None else method(batch, progress, given)

    # The stages

    def whole(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, terms before weighting, detached)."""
        return self.score(self.features(batch, progress, self.wanted), progress, self.objectives)

    def look(self, batch: Any, progress: float) -> dict[str, Tensor]:
        """Return features for diagnostics, asked for or not."""
        return self.features(batch, progress, LOOKED)

    def asked(self, batch: Any, progress: float) -> dict[str, Tensor]:
        """Return the features that objectives ask for, besides those of the batch."""
        return self.features(batch, progress, self.wanted - self.from_batch)

    # The other three are the parts of `whole` for a batch that does not fit (see `accumulate`). Objectives that ask for
    # dense features are `dense`, the others compare samples.

    def embed(self, batch: Any, progress: float) -> dict[str, Tensor]:
        """Return the per-sample features that the others ask for, of the rows of `batch`."""
        others = self.objectives.keys() - self.dense
        return self.features(batch, progress, self.needs(others) & self.per_sample - self.from_batch)

    def compare(self, batch: Any, progress: float, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, terms) of the others; `given` are features as of `embed`, and the batch's own, of all rows."""
        others = self.objectives.keys() - self.dense
        found = self.features(batch, progress, self.needs(others) - self.per_sample)
        return self.score({**given, **found}, progress, others)

    def pull(
        self, batch: Any, progress: float, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return (pulled, loss, terms) of the rows of `batch`.

        loss and terms are what these rows add to those of the dense objectives; the gradient of pulled is that of this
        loss, and the chain rule from the gradients of per-sample features. `given` are these gradients, and the
        batch's own features.
        """
        own = {name: value for name, value in given.items() if name in self.from_batch}
        gradients = {name: value for name, value in given.items() if name not in self.from_batch}
        wanted = (self.needs(self.dense) | gradients.keys()) - own.keys()
        found = {**own, **self.features(batch, progress, wanted)}
        loss, terms = self.score(found, progress, self.dense)
        pulled = sum((found[name] * gradient).sum() for name, gradient in gradients.items())
        return loss + pulled, loss.detach(), terms

    # Their two halves

    def features(self, batch: Any, progress: float, wanted: Set[str]) -> dict[str, Tensor]:
        """Return {name: tensor} of the wanted features."""
        closed = self.wiring.closed(wanted)
        own = closed & self.from_batch
        found = {name: getattr(batch, name) for name in own if name != "real" or hasattr(batch, name)}
        if "progress" in closed:
            found["progress"] = torch.tensor(progress, device=batch.pixels.device)
        with torch.autocast(batch.pixels.device.type, self.precision, enabled=self.precision is not None):
            for name, names in self.wiring.turns(closed):
                asked = {ask: found[ask] for ask in self.wiring.asks[name]}
                found.update(self.providers[name](batch, names, asked, progress))
        return {name: value for name, value in found.items() if name in wanted}

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
                needs: tuple[str, ...] = objective.needs  # type: ignore[assignment]
                value = objective(**{need: kept.features[need] for need in needs})
                terms[name] = value.detach()
                total = total + self.weights[name](progress) * value
        return torch.as_tensor(total), terms

    # Before and after

    def setup(self, model: TwoTower, facts: Facts) -> None:
        """Let every objective create its state, and then every provider: `model` is the one in training."""
        for objective in self.objectives.values():
            objective.setup(facts)  # type: ignore[operator]
        for provider in self.providers.values():
            provider.setup(model, facts)  # type: ignore[operator]

    def freeze_unasked(self) -> None:
        """Freeze what gets no gradient, so that no process waits for it."""
        names = frozenset(name for objective in self.objectives.values() for name in objective.taught)  # type: ignore[union-attr]
        taught = self.wiring.closed(names, taught=True)
        for provider in self.providers.values():
            provider.freeze_unasked(taught)  # type: ignore[operator]

    def after_step(self) -> None:
        """Let every part update its state after the optimizer's step."""
        for part in (*self.providers.values(), *self.objectives.values()):
            part.after_step()  # type: ignore[operator]
