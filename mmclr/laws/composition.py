"""The law of objectives beside each other, as a step of training adds them up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmclr import vocabulary
from mmclr.laws.case import Case, gradients
from mmclr.laws.law import demand, law
from mmclr.laws.tolerance import close
from mmclr.losses.ramp import Ramp
from mmclr.losses.weighted_sum import Term
from mmclr.train.step import Step

WEIGHTS = {"clip": 1.0, "other": 0.3, "siglip": 2.0}  # two that draw nothing at random, around the one


class Given(nn.Module):
    """Has the part of a provider, with features that are there already."""

    made_by = "a law"
    asks: Set[str] = frozenset()

    def __init__(self, found: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.found = found
        self.provides = frozenset(found) - vocabulary.names(provider="batch") - {"progress"}

    def forward(self, batch: Any, wanted: Set[str], found: Any, progress: float) -> dict[str, Tensor]:
        return {name: self.found[name] for name in wanted}

    def after_step(self) -> None:
        """Keep nothing."""


class Batch:
    """Has what a batch brings along."""

    def __init__(self, found: Mapping[str, Tensor]) -> None:
        names = vocabulary.names(provider="batch")
        vars(self).update({"pixels": torch.zeros(1), **{name: x for name, x in found.items() if name in names}})


class Taken(NamedTuple):
    """The outcome of two steps."""

    loss: float
    values: Mapping[str, Tensor]
    gradients: dict[str, Tensor]
    state: Mapping[str, Tensor]


def take(objectives: Mapping[str, Any], given: dict[str, Tensor]) -> Taken:
    """Take two steps on the same features, each objective with its weight."""
    terms = {name: Term(one, Ramp(first=WEIGHTS[name], last=WEIGHTS[name])) for name, one in objectives.items()}
    step = Step({"given": Given(given)}, terms)  # type: ignore[dict-item]
    for number in range(2):
        torch.manual_seed(number)
        loss, values = step(Batch(given), 0.25)
        leaves = given | {f"own {name}": p for name, p in step.objectives.named_parameters() if p.requires_grad}
        found = gradients(loss, leaves)
        step.after_step()
    return Taken(loss.item(), values, found, step.objectives.state_dict())


@law()
def weighted_sum(case: Case) -> None:
    """Beside other objectives the loss is the weighted sum, its gradient too, and none sees the other's state."""
    cases = {"clip": Case("clip"), "other": case, "siglip": Case("siglip")}
    given: dict[str, Tensor] = {}
    for one in cases.values():
        given = one.features(9) | given
    given = {name: x for name, x in given.items() if name != "progress"}
    whole = take({name: one.make() for name, one in cases.items()}, given)
    parts = {name: take({name: one.make()}, given) for name, one in cases.items()}
    total = sum(part.loss for part in parts.values())
    demand(
        math.isclose(whole.loss, total, rel_tol=1e-12),
        f"the loss beside clip and siglip is {whole.loss:.12g}, and {total:.12g} as the sum of each alone",
    )
    for name, part in parts.items():
        demand(torch.equal(whole.values[name], part.values[name]), "a value is another beside other objectives")
        kept = all(torch.equal(whole.state[key], value) for key, value in part.state.items())
        demand(kept, "the state is another beside other objectives")
    for name, gradient in whole.gradients.items():
        summed = sum(part.gradients.get(name, torch.zeros_like(gradient)) for part in parts.values())
        demand(close(gradient, summed, 1e-12), f"the gradient for {name} is not the sum of each alone")  # type: ignore[arg-type]
