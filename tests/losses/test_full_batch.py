"""Objectives over features with a row per token compare no samples, or say that they need the whole batch."""

import pytest

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.losses import Facts, Objective, catalogue
from mmclr.losses.objective import _REGISTRY
from mmclr.losses.weighted_sum import build_terms


@pytest.fixture(autouse=True)
def _registry():
    """Objectives of a test are no longer known after it."""
    catalogue()
    kept = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(kept)


def whole():
    class Whole(Objective, key="whole", cost="dense", full_batch=True):
        def forward(self, view_tokens, weights):
            x = view_tokens.mean((1, 2))
            return parallel.mean((x @ parallel.gather(x).T).mean(1), weights)

    return Whole


def test_micro_batches_are_refused_by_name():
    whole()
    terms = build_terms({"mine": {"use": "whole", "reweight": {"use": "where", "keep": "label > 0"}}})
    assert terms["mine"].objective.full_batch
    with pytest.raises(ConfigError, match="objectives.mine: whole compares samples by view_tokens.* micro_batch=0"):
        build_terms({"mine": {"use": "whole"}, "clip": {}}, micro_batch=8)
    assert build_terms({"clip": {}, "caption": {}}, micro_batch=8).keys() == {"clip", "caption"}


@pytest.mark.parametrize("cost", ["streamed", "dense"])
def test_a_comparison_by_tokens_is_refused_when_the_class_is_made(cost):
    with pytest.raises(TypeError, match="Wrong asks for view_tokens, .* one micro-batch at a time: say cost="):

        class Wrong(Objective, key="wrong", cost=cost):
            def forward(self, view_tokens, weights):
                return view_tokens.sum()


def test_weights_say_nothing_of_a_micro_batch():
    with pytest.raises(TypeError, match="Wrong asks for view_tokens, .* ask for shares"):

        class Wrong(Objective, key="wrong", cost="local"):
            def forward(self, view_tokens, weights):
                return parallel.mean(view_tokens.mean((1, 2, 3)), weights)


def test_who_has_no_tokens_needs_no_whole_batch():
    with pytest.raises(TypeError, match="leave full_batch out"):

        class Wrong(Objective, key="wrong", full_batch=True):
            def forward(self, image, weights):
                return image.sum()


def test_a_field_does_not_hide_an_option_of_the_term():
    with pytest.raises(TypeError, match="Wrong.inputs: every term has an option of this name"):

        class Wrong(Objective, key="wrong"):
            inputs: int = 1

            def forward(self, image, weights):
                return image.sum()


def test_facts_by_hand():
    facts = Facts.example(samples=60, width=8, classes=3)
    assert (facts.samples, facts.width, facts.classes, facts.class_counts) == (60, 8, 3, (20, 20, 20))
    assert sum(Facts.example().class_counts) == Facts.example().samples
    assert Facts.example(class_counts=(1, 2), classes=2).class_counts == (1, 2)
