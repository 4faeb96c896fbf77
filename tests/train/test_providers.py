"""A provider of one's own: a file and a row of the vocabulary bring it, a config makes it, a checkpoint keeps it."""

import functools
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmclr import plugins, vocabulary
from mmclr.config import ConfigError, load
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.features import provider
from mmclr.features.provider import Provider, build_providers
from mmclr.features.wiring import Wiring
from mmclr.losses import objective
from mmclr.train.checkpoints.state import renamed
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train
from tests.train.runs import log

LOAD = functools.cache(Tokenizer.load)  # CLIP's vocabulary takes most of a second to build
OWN = '''
"""Attention over the patches of each view."""
from __future__ import annotations
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from mmclr import parallel, vocabulary
from mmclr.features.provider import Provider
from mmclr.losses.objective import Objective

vocabulary.add("pooled_views", vocabulary.Feature(
    "[b, V, D]", "pool", "unit-norm mean of each view's patches, weighted by a learnt query",
    vocabulary.FEATURES["views"].make, side="image", gradient=True,
))

class Pool(Provider, key="pool"):
    provides = frozenset({"pooled_views"})
    asks = frozenset({"view_tokens"})
    sharpness: float = 1.0

    def setup(self, model, facts):
        self.query = nn.Parameter(torch.randn(facts.width))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, batch, wanted, found, progress):
        tokens = found["view_tokens"]
        share = (tokens @ self.query * self.sharpness * (1 + self.steps / 10)).softmax(-1)
        return {"pooled_views": F.normalize((share[..., None] * tokens).sum(-2), dim=-1)}

    def after_step(self):
        self.steps += 1

class Together(Objective, key="together", cost="local"):
    def forward(self, pooled_views: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(1 - (pooled_views.mean(1) * text).sum(1), weights)
'''


@pytest.fixture
def own(settings, tmp_path, monkeypatch):
    """Return the overrides of a run with the plugin; all that it has registered is gone behind the test."""
    monkeypatch.setenv(plugins.FILES, "{}")
    monkeypatch.setattr(Tokenizer, "load", LOAD)
    registries = (provider._REGISTRY, objective._REGISTRY, vocabulary._ROWS)
    provider.catalogue(), objective.catalogue()
    kept, modules = [dict(registry) for registry in registries], set(sys.modules)
    (tmp_path / "own.py").write_text(OWN)
    yield [*settings, f"plugins=[{tmp_path / 'own.py'}]", "objectives={together: {}}", "providers={slots: {use: pool, "
           "sharpness: 2.0}}", "data.views=2", "save.every_steps=2", "save.keep=0", "steps=4"]  # fmt: skip
    for registry, before in zip(registries, kept):
        registry.clear()
        registry.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("mmclr.plugins."):
            del sys.modules[name]


def run(own, *more):
    return load(RunConfig, "debug.yaml", [*own, *more])


def test_a_run_with_one_learns_its_weights_and_resumes_bit_for_bit(own, tmp_path):
    whole = train(run(own, f"out={tmp_path / 'whole'}", "optim.groups={providers.slots: {lr: 2.0}}"), quiet=True)
    half = whole.parent / "step-00000002"
    path = "state/providers.safetensors"
    before, after = (load_file(folder / path) for folder in (half, whole))
    assert after.keys() == {"slots.query", "slots.steps"}
    assert (before["slots.steps"], after["slots.steps"]) == (2, 4)
    assert not torch.equal(before["slots.query"], after["slots.query"])
    assert "exp_avg/providers.slots.query" in load_file(whole / "state" / "optimizer.safetensors")
    more = [f"out={tmp_path / 'again'}", f"resume={half}", "optim.groups={providers.slots: {lr: 2.0}}"]
    again = train(run(own, *more), quiet=True)
    for name in ("model/model", "state/objectives", "state/providers", "state/optimizer"):
        here, there = (load_file(folder / f"{name}.safetensors") for folder in (whole, again))
        assert here.keys() == there.keys()
        assert all(torch.equal(here[key], there[key]) for key in here), name


def test_micro_batches_train_as_the_whole(own, tmp_path):
    losses = []
    for size in (0, 6):
        train(run(own, f"out={tmp_path / str(size)}", f"micro_batch={size}", "steps=2"), quiet=True)
        losses.append(log(tmp_path / str(size), "loss"))
    assert losses[1] == [pytest.approx(row, rel=1e-4) for row in losses[0]]


def test_other_weights_are_drawn_as_without_one(own, tmp_path):
    """It draws behind all others, so the rest of a run begins as it would."""
    folders = [train(run(own, f"out={tmp_path / 'with'}", "steps=1", "optim.lr=1e-30"), quiet=True)]
    without = [*own, f"out={tmp_path / 'without'}", "steps=1", "optim.lr=1e-30"]
    without += ["providers={slots: null}", "objectives={together: null}"]
    folders.append(train(load(RunConfig, "debug.yaml", without), quiet=True))
    mine, theirs = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-20)


def test_a_checkpoint_without_its_state_is_told(own, tmp_path):
    without = ["providers={slots: null}", "objectives={together: null}"]
    last = train(run(own, f"out={tmp_path / 'first'}", "steps=1", *without), quiet=True)
    with pytest.raises(UserError, match="no state of providers"):
        train(run(own, f"out={tmp_path / 'second'}", f"resume={last}"), quiet=True)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("{slots: {use: pol}}", r"providers.slots: there is no provider 'pol'; did you mean pool\?"),
        ("{slots: {use: pool, sharpnes: 1}}", r"providers.slots.sharpnes: unknown key; did you mean sharpness\?"),
        ("{student: {use: pool}}", "providers.student: a provider cannot be called so"),
        ("{keys: {use: pool}}", "providers.keys: a provider cannot be called so"),
        ("{other: {use: ema}}", "providers.other: the provider ema is made by the key `ema` of a config"),
        ("{slots: null}", "objectives.together needs pooled_views .*, which nothing in this run provides"),
        ("{slots: {use: pool}, more: {use: pool}}", "providers.more: no objective asks for what it provides"),
    ],
)
def test_what_is_wrong_is_said(own, tree, said):
    with pytest.raises(ConfigError, match=said):
        train(run(own, f"providers={tree}"))


def test_what_it_asks_for_must_be_there_and_not_its_own(own):
    run(own)

    class Round(Provider, key="round"):
        provides = frozenset({"frozen_image"})
        asks = frozenset({"frozen_image"})

    made = build_providers({"a": {"use": "round"}})
    with pytest.raises(ConfigError, match="in a circle: a -> a"):
        Wiring(made, frozenset())
    with pytest.raises(ConfigError, match=r"data.views: an objective or provider asks for view_tokens"):
        train(run(own, "data.views=0"))


def test_a_class_that_asks_for_strange_names_is_refused():
    with pytest.raises(TypeError, match=r"'imag' is not in mmclr.vocabulary; did you mean image\?"):
        type("Odd", (Provider,), {"asks": frozenset({"imag"})}, key="odd")


def test_names_of_earlier_checkpoints_are_read(tmp_path):
    kept = {"step/sources.1.model.scale": torch.ones(1), "step/objectives.clip.x": torch.zeros(1)}
    save_file(kept, tmp_path / "optimizer.safetensors")
    notes = []
    found = renamed(load_file(tmp_path / "optimizer.safetensors"), tmp_path, notes)
    assert found.keys() == {"step/providers.student.model.scale", "step/objectives.clip.x"}
    assert len(notes) == 1
    assert renamed(found, tmp_path, notes).keys() == found.keys()
    assert len(notes) == 1
