"""What holds for every objective, whatever its paper."""

import copy
import dataclasses
import inspect
import re

import pytest
import torch

from mmclr import vocabulary
from mmclr.config import to_tree
from mmclr.losses import build, catalogue
from mmclr.losses.objective import Objective
from tests import bounds
from tests.laws.objectives import CASES, NAMES, close, features, gradients, make

every_case = pytest.mark.parametrize(("key", "fields"), CASES, ids=NAMES)
every_key = pytest.mark.parametrize("key", sorted(catalogue()))


@every_case
def test_value_and_gradients_are_finite(key, fields):
    objective = make(key, fields)
    inputs = features(objective, b=12)
    value = objective(**inputs)
    assert value.shape == ()
    assert value.isfinite()
    grads = gradients(value, inputs)
    assert all(g.isfinite().all() for g in grads.values())
    assert any(g.abs().sum() > 0 for g in grads.values())


@every_case
@pytest.mark.parametrize("b", [1, 2])
def test_tiny_batches_are_finite(key, fields, b):
    objective = make(key, fields)
    inputs = features(objective, b=b)
    value = objective(**inputs)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients(value, inputs).values())


@every_case
def test_a_batch_of_one_sample_repeated_is_finite(key, fields):
    objective = make(key, fields)
    inputs = features(objective, b=6)
    for name, x in inputs.items():
        if vocabulary.FEATURES[name].per_sample and name != "index":
            inputs[name] = x.detach()[:1].repeat(6, *[1] * (x.dim() - 1)).requires_grad_(x.requires_grad)
    value = objective(**inputs)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients(value, inputs).values())


@every_case
def test_the_order_of_the_batch_does_not_matter(key, fields):
    inputs = features(make(key, fields), b=11)
    order = torch.randperm(11)
    shuffled = {n: x[order] if vocabulary.FEATURES[n].per_sample else x for n, x in inputs.items()}
    torch.testing.assert_close(
        make(key, fields)(**inputs), make(key, fields)(**shuffled), **bounds.near(), check_dtype=True
    )


@every_key
def test_every_asked_name_is_used(key):
    """Another value of a feature must change the second step: its value, a gradient or the state after it."""
    inputs, other = (features(make(key, {}), b=12, seed=seed) for seed in (0, 1))
    before = _second(key, inputs, inputs)
    for name in inputs:
        per_sample = vocabulary.FEATURES[name].per_sample
        candidates = [other[name]] if per_sample else [other[name] * times for times in (0, 0.5, 3)]
        changed = [x.detach().requires_grad_(inputs[name].requires_grad) for x in candidates]
        after = [_second(key, inputs, inputs | {name: x}) for x in changed]
        same = [all(close(a, b, 1e-9) for a, b in zip(before, values)) for values in after]
        assert not all(same), f"{name} changes nothing"


@pytest.mark.parametrize(("key", "fields"), [case for case in CASES if "weights" in catalogue()[case[0]].needs])
def test_weights_are_relative_and_may_all_be_zero(key, fields):
    """All weights alike are no weights, and none at all are no NaN."""
    objective = make(key, fields)
    inputs = features(objective, b=9)
    ones, halves, zeros = (inputs | {"weights": torch.full((9,), w, dtype=torch.float64)} for w in (1.0, 0.5, 0.0))
    torch.testing.assert_close(make(key, fields)(**ones), make(key, fields)(**halves), **bounds.near())
    value = make(key, fields)(**zeros)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients(value, zeros).values())


DENSE = [case for case in CASES if any(vocabulary.FEATURES[need].dense for need in catalogue()[case[0]].needs)]


@pytest.mark.parametrize(("key", "fields"), DENSE)
def test_what_asks_for_dense_features_adds_up(key, fields):
    """Its values and gradients of any parts of a batch sum to those of the whole."""
    objective = make(key, fields)
    inputs = features(objective, b=9)
    whole = objective(**inputs)
    rows = {name for name in inputs if vocabulary.FEATURES[name].per_sample}
    parts = sum(
        objective(**{n: x[part] if n in rows else x for n, x in inputs.items()})
        for part in (slice(0, 2), slice(2, 7), slice(7, 9))
    )
    torch.testing.assert_close(parts, whole, **bounds.near())
    expected = gradients(whole, inputs)
    for name, gradient in gradients(parts, inputs).items():
        torch.testing.assert_close(gradient, expected[name], **bounds.near())


@every_case
def test_half_precision_features_give_a_float32_value(key, fields):
    inputs = {n: x.bfloat16() if x.is_floating_point() else x for n, x in features(make(key, fields), b=12).items()}
    wide = {n: x.float() if x.is_floating_point() else x for n, x in inputs.items()}
    value = make(key, fields, dtype=torch.float32)(**inputs)
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value, make(key, fields, dtype=torch.float32)(**wide), rtol=bounds.bound(terms=16), atol=bounds.bound(terms=16)
    )


@every_case
def test_autocast_changes_nothing(key, fields):
    inputs = features(make(key, fields), b=12, dtype=torch.float32)
    plain = _everything(make(key, fields, dtype=torch.float32), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        value = make(key, fields, dtype=torch.float32)(**inputs)
    cast = [value, *gradients(value, inputs).values()]
    assert all(close(a, b, bounds.bound(terms=16)) for a, b in zip(cast, plain))


@every_case
def test_a_saved_state_continues_identically(key, fields):
    first = make(key, fields)
    inputs = [features(first, b=8, seed=seed) for seed in range(3)]
    first(**inputs[0]).backward()
    first.after_step()
    second = make(key, fields)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number, step in enumerate(inputs[1:]):
        values = []
        for objective in (first, second):
            torch.manual_seed(number)  # as every step of a run does
            values.append(objective(**step))
            objective.after_step()
        assert torch.equal(*values)


@every_case
def test_the_fields_survive_a_config(key, fields):
    objective = build(key, {name: value for name, value in fields.items() if name != "head"})
    names = [field.name for field in dataclasses.fields(objective)]
    values = {name: getattr(objective, name) for name in names}
    plain = {n: to_tree(v) if dataclasses.is_dataclass(v) else v for n, v in values.items()}
    again = build(key, plain)
    assert {name: getattr(again, name) for name in names} == values


@every_key
def test_the_docstring_says_what_a_reader_needs(key):
    """One sentence; authors, venue and arXiv id; a formula; what it reduces to; how it differs. At most 15 lines."""
    text = inspect.getdoc(catalogue()[key])
    first, *rest = text.split("\n\n")
    assert first.endswith("."), "the first paragraph is one sentence"
    assert len(text.splitlines()) <= 15
    assert re.search(r"arXiv:?\s*\d{4}\.\d{4,5}|doi|no arXiv", text)
    assert re.search(r"\b(19|20)\d\d\b", text), "the year"
    assert re.search(r"\bL\w* =|L_\w+ =", text), "a formula of the form L = ..."
    assert "Reduces to:" in text
    assert "Differs from the paper:" in text


@every_key
def test_every_field_has_a_comment_with_its_meaning(key):
    """The comment that trails a field is what `mmclr papers` prints for it."""
    cls = catalogue()[key]
    source = "".join(inspect.getsource(c) for c in cls.__mro__ if issubclass(c, Objective) and c is not Objective)
    for field in dataclasses.fields(cls):
        assert re.search(rf"^    {field.name}: .*  # \S", source, re.MULTILINE), f"{field.name} has no comment"


def _second(key, first, second):
    """Return the value and all gradients of a step on `second` after one on `first`, and the state after both."""
    objective = make(key, {})
    objective(**first)
    objective.after_step()
    torch.manual_seed(1)
    found = _everything(objective, second)
    objective.after_step()
    return [*found, *objective.state_dict().values()]


def _everything(objective, inputs):
    """Return the value and all gradients, those of the objective's own weights too."""
    value = objective(**inputs)
    return [value, *gradients(value, inputs | {f"own {n}": p for n, p in objective.named_parameters()}).values()]
