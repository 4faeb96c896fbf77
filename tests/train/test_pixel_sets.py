"""Runs with pixel sets: whole, in micro-batches, on two processes, resumed; and what is said of them beforehand."""

import functools
import sys

import pytest
import torch
from safetensors.torch import load_file

from mmclr import plugins
from mmclr.config import ConfigError, check, load
from mmclr.data.samples.text import Tokenizer
from mmclr.doctor import run as doctor
from mmclr.features import towers
from mmclr.laws import LAWS, Case
from mmclr.losses import objective
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.estimate import forecast
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train
from tests import bounds
from tests.data.made import pair, picture, write_tar
from tests.train.runs import finish, log, start
from tests.train.test_accumulate import make_batch

LOAD = functools.cache(Tokenizer.load)  # CLIP's vocabulary takes most of a second to build
OWN = '''
"""Objectives on pixel sets."""
from __future__ import annotations
from torch import Tensor, nn
from torch.nn import functional as F
from mmclr import parallel
from mmclr.losses.objective import Objective

class Detail(Objective, key="detail", cost="local"):
    """A caption is nearer to sharpened copies than to blurred ones and to the companion."""

    margin: float = 0.1  # by which

    def forward(self, sharpened: Tensor, blurred: Tensor, blur: Tensor, companion: Tensor, ema_companion: Tensor,
                text: Tensor, weights: Tensor) -> Tensor:
        near = (sharpened * text[:, None]).sum(2).mean(1)
        far = ((blurred * text[:, None]).sum(2) * blur).mean(1) + ((companion + ema_companion) * text).sum(1)
        return parallel.mean(F.softplus(self.margin + far - near), weights)

class Turns(Objective, key="turns", cost="local"):
    """How an image is turned is told from the tower."""

    def setup(self, facts):
        self.told = nn.Linear(facts.tower, facts.turns)

    def forward(self, turned: Tensor, turn: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(F.cross_entropy(self.told(turned[:, 0]), turn[:, 0], reduction="none"), weights)
'''
ASKED = ("sharpened", "blurred", "companion", "turned")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Return a shard of pairs with companions, of which one lacks its own."""
    folder, members = tmp_path_factory.mktemp("pairs"), []
    for n in range(40):
        own = pair(n) | ({"ref.png": picture(100 + n)} if n != 7 else {})
        members += [(f"{n:06d}.{ext}", data) for ext, data in own.items()]
    return str(write_tar(folder / "pairs.tar", members))


@pytest.fixture
def own(pairs, tmp_path, monkeypatch):
    """Return the overrides of a run; what the plugin registers is gone behind the test."""
    monkeypatch.setenv(plugins.FILES, "{}")
    monkeypatch.setattr(Tokenizer, "load", LOAD)
    objective.catalogue()
    kept, modules = dict(objective._REGISTRY), set(sys.modules)
    (tmp_path / "own.py").write_text(OWN)
    yield [f"data.train={pairs}", f"out={tmp_path / 'run'}", f"plugins=[{tmp_path / 'own.py'}]", "steps=4",
           "objectives={detail: {}, turns: {}}", "data.companion=ref.png", "data.turned=jigsaw", "patch_dropout=0.25",
           "data.degrade={blur: 2, sharpen: 1, sigma: [8, 30]}", "data.views=1", "save.every_steps=2", "save.keep=0",
           "data.max_faults=1"]  # fmt: skip
    objective._REGISTRY.clear()
    objective._REGISTRY.update(kept)
    for name in set(sys.modules) - modules:
        if name.startswith("mmclr.plugins."):
            del sys.modules[name]


def run(own, *more):
    return load(RunConfig, "debug.yaml", [*own, *more])


def test_micro_batches_and_a_resumed_run_train_as_the_whole(own, tmp_path):
    whole = train(run(own, f"out={tmp_path / 'whole'}"), quiet=True)
    train(run(own, f"out={tmp_path / 'micro'}", "micro_batch=6"), quiet=True)
    expected, found = (log(tmp_path / name, "loss", "detail", "turns", "grad_norm") for name in ("whole", "micro"))
    assert len(expected) == 4
    for mine, theirs in zip(found, expected):
        assert mine == pytest.approx(theirs, rel=1e-4)
    again = train(run(own, f"out={tmp_path / 'again'}", f"resume={whole.parent / 'step-00000002'}"), quiet=True)
    for name in ("model/model", "state/objectives", "state/ema", "state/optimizer"):
        here, there = (load_file(folder / f"{name}.safetensors") for folder in (whole, again))
        assert all(torch.equal(here[key], there[key]) for key in here), name


@pytest.mark.dist
def test_two_processes_equal_one(own, tmp_path):
    finish(start([*own, f"out={tmp_path / 'two'}"], ["--processes", "2"]))
    train(run(own, f"out={tmp_path / 'one'}"), quiet=True)
    one, two = (log(tmp_path / name, "loss", "detail", "turns", "grad_norm") for name in ("one", "two"))
    assert len(one) == len(two) == 4
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=bounds.bound(terms=512))


def test_objectives_on_sets_keep_the_laws(own):
    """Those of one process: permutation, blank rows, gradients, weights, state."""
    run(own)
    of_documents = ("docstring", "field_comments", "laws_of_text")
    for case in (Case("detail"), Case("turns")):
        held = [law for law in LAWS.values() if not law.worlds and law.applies(case) and law.name not in of_documents]
        assert len(held) > 10
        for law in held:
            law.check(case)


def test_what_nobody_asks_for_is_neither_read_nor_made(own, tmp_path, monkeypatch):
    """And what is drawn for the others is what it was."""
    plain = [*own, "objectives={detail: null, turns: null, clip: {}}", "steps=2"]
    losses = []
    for name, more in (("with", []), ("without", ['data.companion=""', "data.degrade={blur: 0, sharpen: 0}"])):
        for maker in ("Blurred", "Sharpened"):
            monkeypatch.setattr(f"mmclr.data.pixels.copies.frequency.{maker}.pixels", None)
        train(run(plain, f"out={tmp_path / name}", *more), quiet=True)
        losses.append(log(tmp_path / name, "loss"))
    assert losses[0] == losses[1]


def test_the_config_is_told_what_it_lacks(own):
    with pytest.raises(ConfigError, match=r"data.companion: .* asks for companion, ema_companion .*=ref.jpg"):
        train(run(own, 'data.companion=""'))
    found = list(doctor.check("debug.yaml", [*own, "data.turned=none"]))
    assert [f.what for f in found if f.level == "BROKEN"] == [
        "data.turned: an objective or provider asks for turn, turned (of each image, turned (data.turned)), and there "
        "is none; write data.turned=rotation"
    ]


def test_doctor_says_what_is_seen_and_counts_what_lacks_a_member(own):
    found = list(doctor.check("debug.yaml", [*own, "data.max_faults=0.5"]))
    seen = "of each pair the model sees 1 image + 1 companion + 1 sharpened + 2 blurred + 1 turned, 6 passes"
    assert any(f.what.startswith(seen) for f in found)
    bad = next(f for f in found if f.what.startswith("1 of 40 samples cannot be used"))
    assert "it has no ref.png" in bad.why
    assert "data.companion" in bad.do


def counted(tree):
    """Return a config of a run that sees more than images."""
    data = {"train": "x", "views": 2, "companion": "ref.jpg", "degrade": {"blur": 3}, **tree.get("data", {})}
    terms = {name: {"use": "clip", "inputs": {"image": name}} for name in tree["asked"]}
    return check(
        RunConfig, {"data": data, "model": {"preset": "icons"}, "steps": 10, "patch_dropout": 0, "objectives": terms}
    )


def test_the_forecast_grows_with_what_is_asked_for():
    """By the activations and the pixels of each, and by nothing that is configured alone."""
    plain = counted({"asked": ["image"]})
    each, size = forecast.activations(plain, 1, 0, 4.0), 3 * plain.model.image.size**2
    for asked, copies in ((["views.0"], 2), (["companion"], 1), (["views.1", "blurred.0", "companion"], 6)):
        more = counted({"asked": ["image", *asked]})
        assert forecast.activations(more, 1, 0, 4.0) == pytest.approx((1 + copies) * each)
    loaded = counted({"asked": ["image", "companion", "blurred.0"], "data": {"views": 0}})
    assert forecast.pixels(loaded, 10, 4) == 10 * size * 2 + 4 * size * 4 * 5
    more = counted({"asked": ["image", "blurred.0"]})
    grown = forecast.memory(more, 1000, 8, "float32", 2) - forecast.memory(plain, 1000, 8, "float32", 2)
    assert grown == pytest.approx(128 * 3 * (each + 4 * size))


def test_the_forecast_of_activations_is_what_is_kept():
    """Of the image tower, by what autograd saves: further sets cost what they cost."""
    conf = with_tokenizer(check(ModelConfig, {"preset": "icons"}), 600, 0, 1, 1)
    model, batch = TwoTower(conf), make_batch(6)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def saved(wanted):
        seen = {}

        def keep(t):
            if t.untyped_storage().data_ptr() not in own:
                seen[t.untyped_storage().data_ptr()] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            kept = towers.see(model, batch, wanted)
        return sum(t.untyped_storage().nbytes() for t in seen.values()) if kept else 0

    data = {"views": 2, "degrade": {"blur": 1}}
    few, many = (
        counted({"asked": a, "data": data, "patch_dropout": 0}) for a in (["image"], ["image", "views.0", "blurred.0"])
    )
    expected = forecast.activations(many, 6, 0, 4.0) - forecast.activations(few, 6, 0, 4.0)
    assert saved({"image", "views", "blurred"}) - saved({"image"}) == pytest.approx(expected, rel=0.15)
