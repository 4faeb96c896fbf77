"""Weights that change over the training."""

import pytest

from mmclr.config import ConfigError, check, config, to_tree
from mmclr.losses.ramp import Ramp, Weight


@config
class Term:
    weight: Weight = Ramp(first=1, last=1)


def test_a_number_is_a_constant_weight_and_is_saved_as_a_number():
    term = check(Term, {"weight": 0.25})
    assert [term.weight(progress) for progress in (0, 0.3, 1)] == [0.25, 0.25, 0.25]
    assert to_tree(term) == {"weight": 0.25}


def test_a_linear_ramp_waits_climbs_and_stays():
    ramp = check(Term, {"weight": {"first": 0, "last": 2, "begin": 0.2, "end": 0.6}}).weight
    assert [ramp(p) for p in (0, 0.2, 0.3, 0.4, 0.6, 1)] == pytest.approx([0, 0, 0.5, 1, 2, 2])


def test_a_cosine_ramp_is_flat_at_both_ends():
    ramp = Ramp(first=1, last=0, shape="cosine")
    assert [ramp(p) for p in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.8535533906, 0.5, 0])


def test_a_ramp_survives_the_saved_config():
    tree = {"weight": {"first": 0.0, "last": 1.0, "begin": 0.0, "end": 0.5, "shape": "linear"}}
    assert to_tree(check(Term, tree)) == tree


def test_a_ramp_that_runs_backwards_is_refused_with_its_path():
    with pytest.raises(ConfigError, match="weight.*0 <= begin <= end <= 1"):
        check(Term, {"weight": {"first": 0, "last": 1, "begin": 0.9, "end": 0.1}})
