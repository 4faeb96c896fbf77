"""Weights that are told from features: of mean 1 over the global batch, constant, the same however it is shared out."""

import math

import pytest
import torch

from mmclr import parallel, plugins, reweighters, vocabulary
from mmclr.config import ConfigError
from mmclr.laws.batches import with_blanks
from mmclr.losses import catalogue
from mmclr.losses.weighted_sum import build_terms
from mmclr.reweighters import Reweighter, factors
from mmclr.reweighters.reweighter import REWEIGHTERS
from tests import bounds
from tests.laws.objectives import features, gradients, make
from tests.ranks import run

# Settings of every reweighter with which the laws are checked, as a config has them beside `use`.
SETTINGS = {
    "small_loss": [{"begin": 0.0, "gap": 0.0}, {"begin": 0.2, "gap": 0.0, "iterations": 2}],
    "where": [{"keep": "label >= 1"}, {"keep": "weights < 1.1"}, {"keep": "label != 1"}],
}
CASES = [{"use": key, **fields} for key in reweighters.catalogue() for fields in SETTINGS[key]]
every_case = pytest.mark.parametrize("tree", CASES, ids=[" ".join(map(str, tree.values())) for tree in CASES])
WEIGHED = [key for key, cls in catalogue().items() if "weights" in cls.needs]


def example(rules, b=12, seed=0, dtype=torch.float64):
    """Return random features that the rules ask for."""
    generator, sizes = torch.Generator().manual_seed(seed), vocabulary.Sizes(b=b, dtype=dtype)
    names = dict.fromkeys(name for rule in rules for name in rule.needs)
    return {name: vocabulary.example(name, sizes, generator) for name in names}


@every_case
def test_factors_are_no_less_than_0_and_of_mean_1(tree):
    rules = reweighters.build(tree)
    found = factors(rules, example(rules))
    assert found.shape == (12,)
    assert (found >= 0).all()
    assert found.mean().item() == pytest.approx(1, rel=1e-6)
    assert found.std() > 0.01, "the settings of a law should tell samples apart"


@every_case
@pytest.mark.parametrize("b", [0, 1, 2])
def test_factors_of_tiny_batches_are_finite(tree, b):
    rules = reweighters.build(tree)
    some = example(rules, b=max(b, 1))
    some = {n: x[:b] if vocabulary.FEATURES[n].per_sample else x for n, x in some.items()}
    assert factors(rules, some).isfinite().all()


@every_case
def test_the_order_of_the_batch_does_not_matter(tree):
    rules, order = reweighters.build(tree), torch.randperm(12)
    given = example(rules)
    shuffled = {n: x[order] if vocabulary.FEATURES[n].per_sample else x for n, x in given.items()}
    torch.testing.assert_close(factors(rules, shuffled), factors(rules, given)[order], **bounds.near())


@every_case
def test_no_gradient_goes_through_a_factor(tree):
    """The gradient of the term is that with the same weights given from outside."""
    objective = make("clip", {"reweight": tree})
    inputs = features(objective, b=9)
    for x in inputs.values():
        x.requires_grad_(x.is_floating_point())
    value = objective(**inputs)
    found = gradients(value, {n: x for n, x in inputs.items() if n in ("image", "text", "scale")})
    rules = reweighters.build(tree)
    weights = inputs["weights"].detach() * factors(rules, inputs).to(inputs["weights"])
    plain = {name: inputs[name] for name in catalogue()["clip"].needs} | {"weights": weights}
    expected = make("clip", {})(**plain)
    assert torch.equal(value, expected)
    for name, gradient in gradients(expected, {n: plain[n] for n in found}).items():
        assert torch.equal(found[name], gradient)
    others = {n: x for n, x in inputs.items() if n not in catalogue()["clip"].needs and x.is_floating_point()}
    if others:
        assert not any(gradient.any() for gradient in gradients(objective(**inputs), others).values())


@pytest.mark.parametrize("key", WEIGHED)
def test_factors_that_are_all_equal_change_nothing_to_the_bit(key):
    plain, other = make(key, {}), make(key, {"reweight": {"use": "where", "keep": "weights > 0"}})
    inputs = features(plain, b=9)
    found = []
    for objective in (plain, other):
        torch.manual_seed(1)
        value = objective(**inputs)
        found.append([value, *gradients(value, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("key", WEIGHED)
def test_a_batch_of_which_nothing_counts_is_finite(key):
    objective = make(key, {"reweight": {"use": "where", "keep": "weights > 99"}})
    inputs = features(objective, b=9)
    value = objective(**inputs)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(value, inputs).values())


def test_several_reweighters_multiply():
    one, two = {"use": "where", "keep": "label >= 1"}, {"use": "small_loss", "begin": 0.0, "gap": 0.0}
    both = reweighters.build([one, two])
    given = example(both)
    product = factors(both[:1], given) * factors(both[1:], given)
    torch.testing.assert_close(factors(both, given), product / product.mean(), **bounds.near())


def of_rank(tree, given, real):
    """Return the factors of this rank's rows that are samples."""
    rows = {n: parallel.own_rows(x) if vocabulary.FEATURES[n].per_sample else x for n, x in given.items()}
    mine = parallel.own_rows(real)
    kept = {n: x[mine] if vocabulary.FEATURES[n].per_sample else x for n, x in rows.items()}
    return factors(reweighters.build(tree), kept)


@pytest.mark.dist
@every_case
@pytest.mark.parametrize(("world", "out"), [(2, (1, 2)), (4, (0, 1, 2, 5))])
def test_ranks_with_any_numbers_of_samples_equal_one_process(tree, world, out):
    """The mean is that of the global batch, and a rank may have no sample at all."""
    given, real = example(reweighters.build(tree)), torch.ones(12, dtype=torch.bool)
    real[list(out)] = False
    alone = of_rank(tree, given, real)
    torch.testing.assert_close(torch.cat(run(world, of_rank, tree, given, real)), alone, **bounds.near())


@every_case
def test_blank_rows_do_not_count(tree):
    inputs = features(make("clip", {"reweight": tree}), b=7)
    value = make("clip", {"reweight": tree})(**inputs)
    more, _ = with_blanks(inputs, (0, 3, 4, 10), "noise")
    assert torch.equal(make("clip", {"reweight": tree})(**more), value)


def test_a_head_sees_the_weights_of_the_data():
    """Inputs, then the head, then the weights: what whitening averages does not depend on how the term weighs."""
    found, tree = [], {"use": "where", "keep": "label >= 3"}
    for more in ({}, {"reweight": tree}):
        objective, seen = make("clip", {"head": {"use": "whiten", "group": 4}, **more}), {}
        objective.objective.register_forward_pre_hook(
            lambda module, _, given, seen=seen: seen.update(given), with_kwargs=True
        )
        torch.manual_seed(1)
        objective(**features(make("clip", {"reweight": tree}), b=9))
        found.append(seen)
    assert torch.equal(found[0]["image"], found[1]["image"])
    assert not torch.equal(found[0]["weights"], found[1]["weights"])


def test_a_reweighter_sees_features_as_they_are_whatever_the_inputs():
    tree = {"use": "where", "keep": "label >= 1"}
    objective = make("supcon_label", {"inputs": {"label": "image_id"}, "reweight": tree})
    assert set(objective.needs) >= {"label", "image_id"}
    inputs = features(objective, b=9)
    weights = inputs["weights"] * factors(reweighters.build(tree), inputs)
    rest = {name: inputs[name] for name in ("image", "text", "scale")}
    expected = make("supcon_label", {})(**rest, label=inputs["image_id"], weights=weights)
    assert torch.equal(objective(**inputs), expected)


@pytest.mark.parametrize(
    ("keep", "kept"), [("> 0.5", [False, True, False]), ("!= 2", [True, True, False]), ("<= 0", [True, False, False])]
)
def test_what_is_missing_fulfils_no_condition(keep, kept):
    (rule,) = reweighters.build({"use": "where", "keep": f"weights {keep}"})
    assert (rule.forward(weights=torch.tensor([0.0, 1.0, math.nan])) > 0).tolist() == kept


def test_a_flag_is_compared_with_true_or_false():
    (rule,) = reweighters.build({"use": "where", "keep": "real == false"})
    assert rule.forward(real=torch.tensor([True, False])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("reweight", "message"),
    [
        ({"use": "wher"}, "objectives.clip.reweight.use: there is no reweighter 'wher'; did you mean where"),
        ({}, "reweight.use: there is no reweighter None"),
        ({"use": "where"}, "reweight.keep: missing, and it has no default"),
        ({"use": "where", "keep": "label"}, "objectives.clip.reweight: write a feature, one of .* not 'label'"),
        ({"use": "where", "keep": "labels == 1"}, "there is no feature 'labels'; did you mean label"),
        ({"use": "where", "keep": "views > 1"}, r"views is \[b, V, D\]; a condition takes a feature with one number"),
        ({"use": "where", "keep": "label > many"}, "'many' is no number"),
        ([{"use": "small_loss", "gap": 0.1}, {"use": "small_loss", "gap": 2}], "reweight.1: gap is a share, 0 to 1"),
        ({"use": "small_loss", "iteration": 3}, "reweight.iteration: unknown key; did you mean iterations"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(reweight, message):
    with pytest.raises(ConfigError, match=message):
        build_terms({"clip": {"reweight": reweight}})


@pytest.mark.parametrize("key", sorted(set(catalogue()) - set(WEIGHED)))
def test_an_objective_without_weights_is_refused(key):
    with pytest.raises(ConfigError, match=f"objectives.{key}.reweight: {key} asks for no weights"):
        build_terms({key: {"reweight": {"use": "where", "keep": "label >= 0"}}})


def test_a_reweighter_asks_for_features_of_samples():
    with pytest.raises(TypeError, match="asks for 'imag', which is not in mmclr.vocabulary; did you mean image"):

        class Stranger(Reweighter, key="stranger"):
            def forward(self, imag):
                return imag

    with pytest.raises(TypeError, match="asks for view_tokens, which has a row per token .* let a provider"):

        class Dense(Reweighter, key="dense"):
            def forward(self, view_tokens):
                return view_tokens

    assert {"stranger", "dense"}.isdisjoint(REWEIGHTERS)


@pytest.mark.parametrize("key", reweighters.catalogue())
def test_the_docstring_says_what_a_reader_needs(key):
    text = reweighters.catalogue()[key].__doc__
    assert "arXiv" in text
    assert "L = " in text
    assert "Reduces to:" in text
    assert plugins.is_ours(reweighters.catalogue()[key])
