"""Other features in place of those that an objective names: what they are given is what it computes with."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import vocabulary
from mmclr.config import ConfigError
from mmclr.errors import UserError
from mmclr.losses import catalogue
from mmclr.losses.weighted_sum import build_terms
from tests.laws.objectives import OURS, features, gradients, make

KEYS = OURS


def take(objective, inputs):
    """Return the value, the gradients and the state after a step."""
    torch.manual_seed(1)
    value = objective(**inputs)
    found = gradients(value, inputs)
    objective.after_step()
    return value.detach(), found, objective.state_dict()


@pytest.mark.parametrize("key", KEYS)
def test_each_feature_given_for_itself_changes_nothing_to_the_bit(key):
    plain = make(key, {})
    inputs = features(plain, b=9)
    value, grads, state = take(plain, inputs)
    own = make(key, {"inputs": {need: need for need in plain.needs}})
    assert own.needs == plain.needs
    value_too, grads_too, state_too = take(own, inputs)
    assert torch.equal(value_too, value)
    assert all(torch.equal(grads_too[name], gradient) for name, gradient in grads.items())
    assert all(torch.equal(state_too[f"objective.{name}"], kept) for name, kept in state.items())


@pytest.mark.parametrize("key", ["clip", "siglip", "dcl", "hard_infonce"])
def test_views_in_place_of_a_pair(key):
    """The value is that of the objective itself on these features, the gradient goes where they came from."""
    objective = make(key, {"inputs": {"image": "views.1", "text": "text_views.0"}})
    assert {"image", "text"}.isdisjoint(objective.needs)
    inputs = features(objective, b=7)
    value, grads, _ = take(objective, inputs)
    pair = {"image": inputs["views"][:, 1].detach(), "text": inputs["text_views"][:, 0].detach()}
    pair = {name: x.clone().requires_grad_() for name, x in pair.items()}
    rest = {name: x for name, x in inputs.items() if name not in ("views", "text_views")}
    expected, expected_grads, _ = take(make(key, {}), rest | pair)
    assert torch.equal(value, expected)
    assert torch.equal(grads["views"][:, 1], expected_grads["image"])
    assert torch.equal(grads["text_views"][:, 0], expected_grads["text"])
    assert not grads["views"][:, 0].any()
    assert not grads["text_views"][:, 1].any()


TAUGHT = [(key, need) for key, cls in catalogue().items() for need in cls.needs
          if need.startswith("ema_") and not vocabulary.FEATURES[need].dense]  # fmt: skip


@pytest.mark.parametrize(("key", "need"), TAUGHT)
@pytest.mark.parametrize("head", [{}, {"head": {"use": "mlp", "hidden": 6, "out": 5}}], ids=["plain", "head"])
def test_what_is_constant_to_an_objective_stays_so(key, need, head):
    """Given what the student says in place of what the teacher says, the objective sends no gradient that way."""
    objective = make(key, {"inputs": {need: need.removeprefix("ema_")}, **head})
    seen = {}
    objective.objective.register_forward_pre_hook(lambda module, _, given: seen.update(given), with_kwargs=True)
    objective(**features(objective, b=7))
    assert not seen[need].requires_grad


def test_a_head_maps_what_is_given_by_the_side_that_it_tells_of():
    """Two views of an image pass the head for images, and the one for texts is not trained."""
    objective = make("clip", {"inputs": {"image": "views.0", "text": "views.1"}, "head": {"use": "mlp", "out": 5}})
    inputs, seen = features(objective, b=6), {}
    objective.objective.register_forward_pre_hook(lambda module, _, given: seen.update(given), with_kwargs=True)
    objective(**inputs)
    for number, need in enumerate(("image", "text")):
        assert torch.equal(seen[need], F.normalize(objective.head.image(inputs["views"][:, number]), dim=1))
    assert not any(p.requires_grad for p in objective.head.text.parameters())


@pytest.mark.parametrize(
    ("key", "inputs", "message"),
    [
        ("clip", {"imag": "views.0"}, "objectives.clip.inputs: the objective asks for no 'imag'; did you mean image?"),
        ("clip", {"text": "view.0"}, "inputs.text: there is no feature 'view'; did you mean views?"),
        ("clip", {"text": "views"}, r"inputs.text: views is \[b, \*, D\] and text is \[b, D\].*one of them is views.0"),
        ("clip", {"text": "views.last"}, "inputs.text: 'views.last' is no feature .* write views, or views.0"),
        ("clip", {"text": "image.0"}, "inputs.text: a sample has one image and not several; write image"),
        ("clip", {"text": "frozen_text"}, r"inputs.text: frozen_text is \[b, R\] and text is \[b, D\]"),
        ("clip", {"image_id": "image"}, "inputs.image_id: image is unit-norm .* cannot stand for image_id"),
        ("clip", {"image": "scale"}, r"inputs.image: scale is \[\] and image is \[b, D\]"),
        ("supcon", {"image": "view_tokens.0"}, r"inputs.image: view_tokens.0 is \[b, P, D\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(key, inputs, message):
    with pytest.raises(ConfigError, match=message):
        build_terms({key: {"inputs": inputs}})


def test_all_faults_of_inputs_are_said_at_once():
    with pytest.raises(ConfigError, match="(?s)'imag'.*'view'"):
        build_terms({"clip": {"inputs": {"imag": "views.0", "text": "view.0"}}})


def test_forms_of_a_caption_may_stand_for_captions_of_an_image():
    """How many there are is another letter, but no other shape."""
    assert "text_views" in make("groco", {"inputs": {"texts": "text_views"}}).needs


def test_a_view_that_a_sample_does_not_have_is_refused():
    objective = make("clip", {"inputs": {"text": "views.2"}})
    with pytest.raises(UserError, match="inputs.text: there is no views.2; a sample has 2 views, counted from 0"):
        objective(**features(objective, b=4))
