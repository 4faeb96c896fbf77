"""`mmclr train --dry-run` says what a run will need, from a step that it takes, and keeps nothing."""

import math
import re

import pytest
import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmclr.config import load
from mmclr.models.two_tower import TwoTower
from mmclr.train import command
from mmclr.train.estimate import dry_run
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer


def test_the_command(settings, tmp_path, capsys):
    more = ["epochs=3", "steps=null", "micro_batch=6", "model.text.vocab=49408", "lock.image=true"]
    assert command.main(["debug.yaml", "--dry-run", *settings, *more]) == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    model = TwoTower(load(RunConfig, "debug.yaml", [*settings, *more]).model)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, model.vision_model)]
    assert f"parameters   {sizes[0] / 1e6:.2f} M, {(sizes[0] - sizes[1]) / 1e6:.2f} M of them trained" in said
    assert "16 pairs; 16 on each of 1 processes in micro-batches of 6" in said
    assert f"{math.ceil(60 / 16)} an epoch of 60 samples, {180 // 16} in all" in said
    seconds, rate = (float(x) for x in re.search(r"([\d.]+) s a step on random data, ([\d,]+) samples", said).groups())
    assert rate == pytest.approx(16 / seconds, rel=0.01, abs=0.5)


def test_compute_is_that_of_matrix_products_alone(settings):
    made = Trainer(load(RunConfig, "debug.yaml", settings), Accelerator())
    batch = dry_run.scrambled(next(iter(made.loader)), made)
    ours = dry_run.count(made, batch)
    made.taken -= 1
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        made.take_step(batch)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_random_data_have_the_shape_of_real_data(settings):
    made = Trainer(load(RunConfig, "debug.yaml", [*settings, "data.views=2"]), Accelerator())
    real = next(iter(made.loader))
    fake = dry_run.scrambled(real, made)
    assert (fake.pixels.shape, fake.views.shape, fake.keys) == (real.pixels.shape, real.views.shape, real.keys)
    assert not torch.equal(fake.pixels, real.pixels)
    assert torch.equal(fake.tokens[:, 0], real.tokens[:, 0])
    rows, last = torch.arange(len(real.lengths)), real.lengths - 1
    assert (fake.tokens[rows, last] == made.tokenizer.eos_id).all()
    assert ((fake.tokens == made.tokenizer.eos_id).sum(1) == (real.tokens == made.tokenizer.eos_id).sum(1)).all()
    inside = torch.arange(real.tokens.shape[1]) < last[:, None]
    assert (fake.tokens != real.tokens)[inside].float().mean() > 0.5
