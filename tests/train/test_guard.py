"""A number that is not finite: found, named, left out; and after too many the run stops."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mmclr.config import load
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower
from mmclr.train.nonfinite import Guard, GuardConfig
from mmclr.train.run import RunConfig
from mmclr.train.strategies.loss_scale import PATIENCE, LossScale
from mmclr.train.trainer import Trainer, train


@pytest.fixture
def trainer(settings):
    from accelerate import Accelerator

    made = Trainer(load(RunConfig, "debug.yaml", settings), Accelerator())
    made.said = []
    made.display.say = made.said.append
    return made


def one_step(trainer):
    batch = next(iter(trainer.loader))
    before = {name: p.clone() for name, p in trainer.step.named_parameters()}
    trainer.take_step(batch)
    changed = any(
        not torch.equal(
            before[name],
            p,
        )
        for name, p in trainer.step.named_parameters()
        if p.isfinite().all()
    )
    return batch, changed


def test_a_sample_is_named_and_the_update_left_out(trainer, monkeypatch):
    plain = TwoTower.normalise

    def broken(self, pixels):
        out = plain(self, pixels)
        out[3] = torch.nan
        return out

    monkeypatch.setattr(TwoTower, "normalise", broken)
    batch, changed = one_step(trainer)
    assert not changed
    assert len(trainer.said) == 1
    assert f"for {batch.keys[3]})" in trainer.said[0]
    assert "vision_model.embeddings" in trainer.said[0]  # the first module, not the last
    kept = list((trainer.run.folder / "bad").glob("step-00000001-rank-0-0.safetensors"))
    assert torch.equal(load_file(kept[0])["pixels"], batch.pixels.contiguous())
    monkeypatch.undo()
    assert one_step(trainer)[1]  # and the run goes on
    assert trainer.guard.in_a_row == 0


def test_a_weight_is_named(trainer):
    trainer.model.text_projection.weight.data[0, 0] = torch.inf
    assert not one_step(trainer)[1]
    assert "the weight providers.student.model.text_projection.weight" in trainer.said[0]


def test_a_gradient_is_named(trainer):
    hook = trainer.model.visual_projection.weight.register_hook(lambda g: g * torch.nan)
    assert not one_step(trainer)[1]
    assert "the gradient of providers.student.model.visual_projection.weight" in trainer.said[0]
    hook.remove()
    assert one_step(trainer)[1]


def test_too_many_in_a_row_stop_the_run(settings, monkeypatch):
    monkeypatch.setattr(TwoTower, "normalise", lambda self, pixels: pixels.float() * torch.nan)
    with pytest.raises(UserError, match="step 3: .*\n3 such steps in a row"):
        train(load(RunConfig, "debug.yaml", [*settings, "guard.stop_after=3"]), quiet=True)


def test_spikes_are_told_from_noise(tmp_path):
    guard = Guard(GuardConfig(), tmp_path)
    torch.manual_seed(0)
    assert not any(guard.spikes(3 + 0.1 * x) for x in torch.randn(200).tolist())
    assert guard.spikes(8.0)
    assert not guard.spikes(3.0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_does_not_hide_later_spikes(loss, tmp_path):
    guard = Guard(GuardConfig(), tmp_path)
    torch.manual_seed(0)
    noise = (3 + 0.1 * torch.randn(60)).tolist()
    assert not any(guard.spikes(x) for x in noise[:30])
    assert guard.spikes(loss)
    assert guard.spikes(1000.0)
    again = Guard(GuardConfig(), tmp_path)
    again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert again.spikes(1e6), "the losses before are in the checkpoint"
    assert not again.spikes(3.0)


def test_a_loss_that_is_not_finite_is_no_update_though_its_gradient_is(trainer):
    clip = trainer.step.objectives["clip"]
    plain = clip.forward
    clip.forward = lambda **features: plain(**features) + torch.inf
    assert not one_step(trainer)[1]
    assert "step 1: the loss or its gradient is not finite (rank 0: objectives.clip)" in trainer.said[0]
    clip.forward = plain
    assert one_step(trainer)[1]


@pytest.mark.parametrize("micro", [0, 5])
def test_a_sample_is_named_where_captions_are_all_that_is_learnt(settings, micro, monkeypatch):
    from accelerate import Accelerator

    settings = [
        *settings,
        "model.captioner={layers: 1}",
        "objectives={clip: null, caption: {}}",
        f"micro_batch={micro}",
    ]
    made = Trainer(load(RunConfig, "debug.yaml", settings), Accelerator())
    made.said = []
    made.display.say = made.said.append
    plain = TwoTower.normalise
    batch = next(iter(made.loader))

    def broken(self, pixels):
        out = plain(self, pixels)
        out[(pixels == batch.pixels[3]).flatten(1).all(1)] = torch.nan
        return out

    monkeypatch.setattr(TwoTower, "normalise", broken)
    made.take_step(batch)
    assert f"for {batch.keys[3]})" in made.said[0]
    assert "vision_model.embeddings" in made.said[0]


def test_what_was_left_out_is_said_at_the_end(settings, monkeypatch, tmp_path, capfd):
    plain, count = TwoTower.normalise, iter(range(100))
    monkeypatch.setattr(TwoTower, "normalise", lambda self, x: plain(self, x) * (torch.nan if next(count) == 4 else 1))
    train(load(RunConfig, "debug.yaml", settings))
    assert "1 of 12 updates were left out" in capfd.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 12


def test_an_overflow_halves_the_loss_scale_and_is_no_fault(trainer, monkeypatch):
    trainer.strategy.scale = scale = LossScale(value=4.0)
    assert one_step(trainer)[1]
    plain = TwoTower.normalise
    monkeypatch.setattr(TwoTower, "normalise", lambda self, pixels: plain(self, pixels) * torch.nan)
    for value in (2.0, 1.0):
        assert not one_step(trainer)[1]
        assert (scale.value, trainer.guard.total, trainer.said) == (value, 0, [])
    assert not one_step(trainer)[1]
    assert (scale.value, trainer.guard.total) == (1.0, 1), "at a factor of 1 it is the numbers' own fault"
    monkeypatch.undo()
    scale.held = PATIENCE - 1
    assert one_step(trainer)[1]
    assert (scale.value, scale.held) == (2.0, 0)


def test_the_step_in_which_the_loss_scale_doubles_is_as_large_as_any(settings):
    from accelerate import Accelerator

    def weights(held):
        small = ["optim.eps=1.0", "optim.clip_norm=null"]  # so that Adam's step is about as large as the gradient
        made = Trainer(load(RunConfig, "debug.yaml", [*settings, *small]), Accelerator())
        made.strategy.scale = LossScale(value=4.0, held=held)
        one_step(made)
        assert made.strategy.scale.value == (4.0 if held == 0 else 8.0)
        return [p.detach().clone() for p in made.step.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(PATIENCE - 1)))


def test_an_update_that_is_left_out_leaves_statistics_of_batch_norms_too(settings, tmp_path, monkeypatch):
    import transformers
    from accelerate import Accelerator

    transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ).save_pretrained(tmp_path / "resnet")
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "resnet" / "preprocessor_config.json").write_text(json.dumps(half))
    tower = f"model.image={{size: 32, foreign: {{source: 'transformers:{tmp_path / 'resnet'}', pool: pooler}}}}"
    settings = [*(s for s in settings if "patch_dropout" not in s), "patch_dropout=0", tower]
    made = Trainer(load(RunConfig, "debug.yaml", settings), Accelerator())
    assert one_step(made)[1]
    before = [buffer.clone() for buffer in made.model.vision_model.buffers()]
    plain = TwoTower.normalise
    monkeypatch.setattr(TwoTower, "normalise", lambda self, pixels: plain(self, pixels) * torch.nan)
    assert not one_step(made)[1]
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.vision_model.buffers()))
    with pytest.raises(UserError, match="micro_batch: a tower has batch norms"):
        Trainer(load(RunConfig, "debug.yaml", [*settings, "micro_batch=4"]), Accelerator())
    Trainer(load(RunConfig, "debug.yaml", [*settings, "micro_batch=4", "lock.image=true"]), Accelerator())
