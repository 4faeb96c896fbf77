"""The teacher that follows the model: what it computes, how it moves, and that it goes on where a run stopped."""

import math

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mmclr.config import ConfigError, load
from mmclr.errors import UserError
from mmclr.features.ema import Ema
from mmclr.features.student import Student
from mmclr.models.two_tower import TwoTower
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer, train
from tests import bounds
from tests.train.test_accumulate import make_batch, make_step

TEACHER = ["objectives={byolip: {hidden: 2, out: 8}, pixpro: {hidden: 2, out: 8}, wscol: {prototypes: 8}, "
           "directpred: {}}", "data.views=2", "data.text_views=2", "patch_dropout=0", "save.every_steps=6",
           "save.keep=0"]  # fmt: skip


def run(settings, *more):
    return load(RunConfig, "debug.yaml", [*settings, *TEACHER, *more])


def test_it_says_what_the_model_says_while_it_is_the_same():
    step = make_step({"byolip": {}, "pixpro": {"out": 8}}, 1)
    student, ema = step.providers["student"], step.providers["ema"]
    student.patch_dropout = 0.0
    batch, names = make_batch(), ("image", "text", "views", "text_views", "view_tokens")
    mine = ema(batch, {f"ema_{name}" for name in names}, {}, 0.0)
    theirs = student(batch, set(names), {}, 0.0)
    for name in names:
        torch.testing.assert_close(mine[f"ema_{name}"], theirs[name])
        assert not mine[f"ema_{name}"].requires_grad
    assert theirs["views"].shape == (10, 2, 12)
    side = student.model.config.image.size // student.model.config.image.patch
    assert theirs["view_tokens"].shape == (10, 2, side**2, 12)
    apart = [student(batch, {name}, {}, 0.0)[name] for name in names]  # whoever else is asked for
    for name, value in zip(names, apart):
        torch.testing.assert_close(value, theirs[name])


def test_views_are_what_the_tower_makes_of_them():
    step = make_step({"siamlip": {}}, 1)
    student = step.providers["student"].eval()
    batch = make_batch()
    found = student(batch, {"image", "views", "text_views"}, {}, 0.0)
    for view in range(2):
        pixels = student.model.normalise(batch.views[:, view])
        torch.testing.assert_close(found["views"][:, view], student.model.encode_image(pixels))
        text = student.model.encode_text(batch.text_view_tokens[:, view], batch.text_view_lengths[:, view])
        torch.testing.assert_close(found["text_views"][:, view], text)
    patches = student(batch, {"view_tokens"}, {}, 0.0)["view_tokens"]
    whole, _ = student.model.encode_patches(student.model.normalise(batch.views[:, 0]))
    torch.testing.assert_close(whole, found["views"][:, 0])
    tokens = student.model.vision_model.tokens(student.model.normalise(batch.views[:, 1]))[:, 1:]
    tower = student.model
    torch.testing.assert_close(patches[:, 1], tower.visual_projection(tower.vision_model.post_layernorm(tokens)))


def test_it_holds_only_the_towers_that_are_asked_about():
    student = make_step({"clip": {}}, 1).providers["student"]
    for names, has in (
        ({"ema_views"}, (True, False)),
        ({"ema_text"}, (False, True)),
        ({"ema_text", "ema_image"}, (True, True)),
    ):
        teacher = Ema(student, names).teacher.copy
        assert (teacher.vision_model is not None, teacher.text_model is not None) == has
        assert teacher.captioner is None


def test_what_the_data_do_not_have_is_refused(settings):
    with pytest.raises(
        ConfigError, match=r"data.views: an objective or provider asks for ema_views, views .* write data.views=2"
    ):
        Trainer(load(RunConfig, "debug.yaml", [*settings, "objectives={byolip: {}}"]), Accelerator())
    with pytest.raises(ConfigError, match=r"needs text_views .*data.text_views"):
        Trainer(load(RunConfig, "debug.yaml", [*settings, "objectives={siamlip: {}}", "data.views=1"]), Accelerator())
    with pytest.raises(ConfigError, match="a momentum is 0 to 1"):
        run(settings, "ema=1.5")


def test_it_moves_as_its_schedule_says(settings, monkeypatch):
    """Against the formula of the momentum, in float64, over a run with a step that is left out."""
    trainer = Trainer(run(settings, "ema.first=0.5"), Accelerator())
    trainer.display.say = lambda text: None
    pairs = trainer.following.pairs
    assert {name.split(".")[0] for name in pairs} == {"providers", "objectives"}  # the towers, and heads of objectives
    now = {name: p.double() for name, p in trainer.strategy.shards().items()}
    expected = {name: now[name] for name in pairs}
    for name, followed in pairs.items():
        assert torch.equal(now[name], now[followed])
    batches, plain = iter(trainer.loader), TwoTower.normalise
    for k in range(5):
        if k == 2:
            monkeypatch.setattr(TwoTower, "normalise", lambda self, pixels: plain(self, pixels) * math.nan)
        trainer.take_step(next(batches))
        monkeypatch.undo()
        m = 1 - (1 - 0.5) * (math.cos(math.pi * k / 12) + 1) / 2
        now = {name: p.double() for name, p in trainer.strategy.shards().items()}
        if k != 2:
            expected = {name: m * expected[name] + (1 - m) * now[followed] for name, followed in pairs.items()}
        for name in pairs:
            torch.testing.assert_close(
                now[name], expected[name], rtol=bounds.bound(terms=512), atol=bounds.bound(terms=16)
            )
    assert trainer.guard.total == 1
    assert any(not torch.equal(now[name], now[followed]) for name, followed in pairs.items())


def test_a_resumed_run_ends_as_an_unbroken_one(settings, tmp_path):
    """Bit for bit: model, teacher, heads and their followers, prototypes, correlations, optimizer."""
    whole = train(run(settings, f"out={tmp_path / 'whole'}"), quiet=True)
    half = whole.parent / "step-00000006"
    again = train(run(settings, f"out={tmp_path / 'again'}", f"resume={half}"), quiet=True)
    for name in ("model/model", "state/objectives", "state/ema", "state/optimizer"):
        here, there = (load_file(folder / f"{name}.safetensors") for folder in (whole, again))
        assert here.keys() == there.keys()
        assert all(torch.equal(here[key], there[key]) for key in here), name
    ema = load_file(whole / "state" / "ema.safetensors")
    before = load_file(half / "state" / "ema.safetensors")
    assert any(not torch.equal(ema[key], before[key]) for key in ema)


def test_a_checkpoint_without_a_teacher_is_told(settings, tmp_path):
    plain = train(load(RunConfig, "debug.yaml", [*settings, f"out={tmp_path / 'plain'}", "steps=1"]), quiet=True)
    with pytest.raises(UserError):
        train(run(settings, f"out={tmp_path / 'other'}", f"resume={plain}"), quiet=True)
    clip = load(
        RunConfig,
        "debug.yaml",
        [*settings, f"out={tmp_path / 'third'}", f"resume={plain}", "objectives={clip: null, directpred: {}}"],
    )
    with pytest.raises(UserError):
        train(clip, quiet=True)


def test_provides_goes_by_the_batch():
    model = make_step({"clip": {}}, 1).providers["student"].model
    assert "views" not in Student(model).provides
    assert {"views", "view_tokens"} <= Student(model, sets=["views"]).provides
    assert "text_views" in Student(model, text_views=1).provides
