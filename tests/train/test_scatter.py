"""Runs with a scattering tower: resumed to the bit, evaluated, and refused where a step would be another one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmclr
from mmclr.config import load
from mmclr.errors import UserError
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer
from tests.parts import shard
from tests.train.runs import log, run_here


@pytest.fixture
def settings(tmp_path):
    image = {"size": 16, "width": 64, "scatter": {"J": 2, "L": 4, "blocks": 2}}
    text = {"width": 32, "layers": 1, "heads": 2, "mlp": 48, "context": 12}
    return [
        f"data.train={shard(tmp_path / 'colours.tar')}", f"out={tmp_path / 'run'}", "steps=8", "data.batch=16",
        f"model={json.dumps({'preset': None, 'embed': 24, 'image': image, 'text': text})}", "patch_dropout=0",
        "optim.lr=3e-3", "objectives={clip: {}}", "precision=float32", "threads=1",
    ]  # fmt: skip


def test_a_run_is_resumed_to_the_bit_statistics_too(settings, tmp_path):
    run = ["save.every_steps=4", "save.keep=0"]
    whole = run_here([*settings, *run])
    again = run_here([*settings, *run, f"out={tmp_path / 'again'}", f"resume={whole.parent / 'step-00000004'}"])
    first, second = (load_file(path / "model" / "model.safetensors") for path in (whole, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["vision_model.norm.num_batches_tracked"] == 8
    losses = log(tmp_path / "run", "loss")
    assert losses
    assert np.isfinite(losses).all()
    images = [np.full((16, 16, 3), level, np.uint8) for level in (0, 99, 255)]
    found = mmclr.load(whole, device="cpu").encode_image(images)
    assert np.isfinite(found).all()
    assert abs(found[0] - found[2]).max() > 1e-4


def test_micro_batches_would_be_another_gradient(settings):
    from accelerate import Accelerator

    with pytest.raises(UserError, match="micro_batch: a tower has batch norms"):
        Trainer(load(RunConfig, "debug.yaml", [*settings, "micro_batch=4"]), Accelerator())


def test_views_have_no_tokens(settings):
    from accelerate import Accelerator

    asks = ["data.views=2", "objectives={clip: {}, pixpro: {}}"]
    with pytest.raises(UserError, match=r"view_tokens .*which nothing in this run provides"):
        Trainer(load(RunConfig, "debug.yaml", [*settings, *asks]), Accelerator())
