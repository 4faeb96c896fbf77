"""A head in front of an objective: what the model and the teacher say passes heads of one kind, or none is taken."""

import pytest
import torch

from mmclr.config import ConfigError
from mmclr.heads.ema_copy import Follower, pairs
from mmclr.losses import catalogue
from mmclr.losses.weighted_sum import build_terms
from mmclr.losses.with_head import SIDES, TEACHER
from tests import bounds
from tests.laws.objectives import features, gradients, make

KEYS = [key for key, cls in catalogue().items() if SIDES.keys() & set(cls.needs)]
WITH_TEACHER = [key for key in KEYS if TEACHER.keys() & set(catalogue()[key].needs)]


@pytest.mark.parametrize("key", KEYS)
def test_a_head_that_changes_nothing_changes_nothing(key):
    """Value and gradients; a reweight of kappa 1 is the identity on unit vectors."""
    inputs = features(make(key, {}), b=9)
    found = []
    for fields in ({}, {"head": {"use": "reweight", "kappa": 1.0}}):
        objective = make(key, fields)
        torch.manual_seed(0)
        value = objective(**inputs)
        found.append((value, gradients(value, inputs)))
    (plain, plain_gradients), (headed, headed_gradients) = found
    torch.testing.assert_close(headed, plain, **bounds.near())
    for name in inputs.keys() & {"image", "text", "texts", "views", "text_views"}:
        x, across = inputs[name].detach(), plain_gradients[name]
        across = across - (across * x).sum(-1, keepdim=True) * x  # the head goes by the direction alone
        torch.testing.assert_close(headed_gradients[name], across, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("use", [{"use": "reweight", "kappa": 1.5}, {"use": "mlp", "hidden": 6, "out": 5},
                                 {"use": "mlp", "hidden": 0, "out": 8, "shared": True}])  # fmt: skip
@pytest.mark.parametrize("key", WITH_TEACHER)
def test_what_the_teacher_says_passes_a_head_of_the_same_kind(key, use):
    """The objective sees of the teacher what the same head would make of it, of the same width, without gradient."""
    objective = make(key, {"head": use})
    inputs, seen = features(objective, b=7), {}
    for name in TEACHER.keys() & inputs.keys():  # the teacher says what the model says
        inputs[name] = inputs[name.removeprefix("ema_")].detach() if name[4:] in inputs else inputs[name]
    objective.objective.register_forward_pre_hook(lambda module, _, given: seen.update(given), with_kwargs=True)
    objective(**inputs)
    for name in TEACHER.keys() & inputs.keys():
        assert torch.equal(seen[name], objective.head(inputs[name], TEACHER[name])), name
        assert not seen[name].requires_grad
        assert seen[name].shape[-1] == objective.head.width


@pytest.mark.parametrize("key", WITH_TEACHER)
def test_the_teachers_head_follows(key):
    """It is a follower, so the trainer moves it as it moves the teacher, and a checkpoint has it."""
    objective = make(key, {"head": {"use": "mlp", "hidden": 6, "out": 5}})
    assert isinstance(objective.teacher, Follower)
    followed = {own: of for own, of in pairs(objective).items() if own.startswith("teacher.")}
    assert followed == {f"teacher.copy.{name}": f"head.{name}" for name, _ in objective.head.named_parameters()}
    assert not any(p.requires_grad for p in objective.teacher.parameters())


@pytest.mark.parametrize("key", sorted(set(catalogue()) - set(KEYS)))
def test_a_head_before_an_objective_that_compares_no_embeddings_is_refused(key):
    with pytest.raises(ConfigError, match=f"objectives.{key}.head: a head maps embeddings, and {key} compares none"):
        build_terms({key: {"head": {"use": "mlp"}}})


@pytest.mark.parametrize("key", WITH_TEACHER)
def test_whitening_what_a_teacher_says_is_refused(key):
    with pytest.raises(
        ConfigError, match=f"objectives.{key}.head: whiten .* cannot map what {key} asks of the teacher"
    ):
        build_terms({key: {"head": {"use": "whiten"}}})
