"""Runs on arrays: they learn, are resumed to the bit, and give the same in micro-batches and on two processes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmclr
from mmclr.config import ConfigError, load
from mmclr.doctor import run as doctor
from mmclr.train.run import RunConfig
from tests import bounds
from tests.data.arrays import encoded
from tests.data.made import write_tar
from tests.train.runs import finish, log, run_here, start

WORDS = ("slow", "fast", "loud")
TOWER = {"width": 32, "layers": 2, "heads": 2, "mlp": 48}


def wave(number):
    """Return a noisy wave of two channels, of some length, and its word: how often or how far it swings."""
    draw, kind = np.random.default_rng(number), number % 3
    steps = np.arange(18 + number % 9)[:, None]
    swing = np.sin(steps * (0.4, 2.0, 0.4)[kind] + draw.uniform(0, 6) + [0, 1]) * (1, 1, 6)[kind]
    return (swing + 0.2 * draw.normal(size=swing.shape)).astype(np.float32), WORDS[kind]


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    path, members = tmp_path_factory.mktemp("waves") / "waves.tar", []
    for number in range(48):
        x, word = wave(number)
        cls = str(number % 3).encode()
        members += [(f"{number:04d}.npy", encoded(x)), (f"{number:04d}.txt", word.encode()), (f"{number:04d}.cls", cls)]
    return str(write_tar(path, members))


@pytest.fixture
def settings(waves, tmp_path):
    image = {**TOWER, "array": {"channels": 2, "length": 24, "patch": 4}}
    return [
        f"data.train={waves}", f"out={tmp_path / 'run'}", "steps=12", "data.batch=24", "data.views=2",
        "data.text_views=1",
        f"model={json.dumps({'preset': None, 'embed': 24, 'image': image, 'text': {**TOWER, 'context': 12}})}",
        "data.array_augment={crop: [0.8, 1.0], jitter: 0.1, mask: 0.1}", "patch_dropout=0.25", "optim.lr=3e-3",
        "objectives={clip: {}, siamlip: {weight: 0.1}}", "precision=float32", "threads=1",
    ]  # fmt: skip


def weights(checkpoint):
    return load_file(checkpoint / "model" / "model.safetensors")


def test_a_run_learns_to_name_signals_and_goes_on_to_the_bit(settings, tmp_path):
    whole = run_here([*settings, "steps=24", "save.every_steps=9", "save.keep=0"])
    model = mmclr.load(whole, device="cpu")
    unseen = [wave(number) for number in range(100, 130)]
    found = model.similarity([x for x, _ in unseen], list(WORDS)).argmax(1)
    assert np.mean([WORDS[i] == word for i, (_, word) in zip(found, unseen)]) > 0.8
    again = [*settings, "steps=24", f"out={tmp_path / 'again'}"]
    resumed = run_here([*again, f"resume={whole.parent / 'step-00000009'}"])
    ours, theirs = weights(whole), weights(resumed)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_micro_batches_and_two_processes_give_the_same(settings, tmp_path):
    rows = {}
    for name, more, launch in (
        ("one", [], []),
        ("micro", ["micro_batch=8"], []),
        ("two", [], ["--processes", "2"]),
    ):
        out = tmp_path / name
        finish(start([*settings, "steps=2", "log_every=1", f"out={out}", *more], launch))
        rows[name] = np.array(log(out, "step", "loss", "grad_norm"))
    for name in ("micro", "two"):
        np.testing.assert_allclose(rows[name], rows["one"], rtol=1e-4)
        np.testing.assert_allclose(rows[name][0], rows["one"][0], rtol=bounds.bound(terms=1 << 14))


def test_what_is_of_images_alone_is_said(settings):
    def refused(*more):
        with pytest.raises(ConfigError) as caught:
            run_here([*settings, *more])
        return str(caught.value)

    assert "data.augment is of images" in refused("data.augment.flip=0.5")
    assert "view_tokens" in refused("objectives={pixpro: {}}")
    assert "captioner: it writes of images" in refused("model.captioner.layers=1")


def test_the_doctor_and_the_forecast_know_arrays(settings, tmp_path):
    config = tmp_path / "waves.yaml"
    config.write_text("base: debug.yaml\n")
    found = [str(line) for line in doctor.check(str(config), [one for one in settings if "optim" not in one])]
    assert any("arrays have 18 to 26 steps" in line for line in found)
    run = load(RunConfig, "debug.yaml", settings)
    assert run.model.image.patches == 6
