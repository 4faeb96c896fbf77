"""Objectives beside each other: the loss is their weighted sum, its gradient too, and none sees the other's state."""

import pytest
import torch

from mmclr import vocabulary
from mmclr.features.provider import Provider
from mmclr.losses.ramp import Ramp
from mmclr.losses.weighted_sum import Term
from mmclr.train.step import Step
from tests.laws.objectives import CASES, NAMES, close, features, gradients, make

FROM_BATCH = vocabulary.names(provider="batch")


class Given(Provider, key="given", made_by="a test"):
    """A provider of features that are there already."""

    def __init__(self, found):
        self.found, self.provides = found, frozenset(found) - FROM_BATCH - {"progress"}

    def forward(self, batch, wanted, found, progress):
        return {name: self.found[name] for name in wanted}


class Batch:
    """What a batch brings along."""

    def __init__(self, found):
        vars(self).update({"pixels": torch.zeros(1), **{name: x for name, x in found.items() if name in FROM_BATCH}})


def take(terms, given):
    """Return the loss, the terms, the gradients and the state after two steps on the same features."""
    step = Step({"given": Given(given)}, terms)
    for number in range(2):
        torch.manual_seed(number)
        loss, values = step(Batch(given), 0.25)
        leaves = given | {f"own {name}": p for name, p in step.objectives.named_parameters() if p.requires_grad}
        found = gradients(loss, leaves)
        step.after_step()
    return loss.detach(), values, found, step.objectives.state_dict()


@pytest.mark.parametrize(("key", "fields"), CASES, ids=NAMES)
def test_the_loss_is_a_weighted_sum(key, fields):
    """Beside two that draw nothing at random, one before it and one behind it."""
    made = {"clip": make("clip", {}), "other": make(key, fields), "siglip": make("siglip", {})}
    given = {}
    for objective in made.values():
        given = features(objective, b=9) | given
    given = {name: x for name, x in given.items() if name != "progress"}
    weights = {"clip": 1.0, "other": 0.3, "siglip": 2.0}
    terms = {n: Term(o, Ramp(first=weights[n], last=weights[n])) for n, o in made.items()}
    loss, values, grads, state = take(terms, given)
    alone = {"clip": make("clip", {}), "other": make(key, fields), "siglip": make("siglip", {})}
    parts = {n: take({n: Term(o, Ramp(first=weights[n], last=weights[n]))}, given) for n, o in alone.items()}
    assert loss.item() == pytest.approx(sum(part[0].item() for part in parts.values()), rel=1e-12)
    for name, (_, own, _, own_state) in parts.items():
        assert torch.equal(values[name], own[name])
        assert all(torch.equal(state[n], value) for n, value in own_state.items())
    for name, gradient in grads.items():
        summed = sum(part[2].get(name, torch.zeros_like(gradient)) for part in parts.values())
        assert close(gradient, summed, 1e-12), name
