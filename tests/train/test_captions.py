"""Runs that write captions: two processes equal one, a stopped run goes on, and the encoders stay a plain CLIPModel."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mmclr import parallel
from mmclr.config import load
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower
from mmclr.train.run import RunConfig
from tests import bounds
from tests.ranks import run
from tests.train.runs import finish, log, start
from tests.train.test_accumulate import make_batch, make_step
from tests.train.test_strategies import start as launch

MORE = ["model.captioner={layers: 2}", "objectives={clip: {}, caption: {weight: 2, label_smoothing: 0.1}}"]
COLUMNS = ("loss", "clip", "caption", "grad_norm")


def run_here(settings):
    from mmclr.train.trainer import train

    return train(load(RunConfig, "debug.yaml", settings), quiet=True)


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory):
    """Return the last checkpoint, of 12, of a run in one process."""
    folder = tmp_path_factory.mktemp("captions") / "run"
    settings = [f"data.train={shards}", f"out={folder}", "steps=12", "average.decay=0.9", "patch_dropout=0.25", *MORE]
    return run_here([*settings, "save.every_steps=5", "save.keep=0"])


def share(rows):
    """Return loss and gradients of a step on this rank's rows, as DDP would average them."""
    step = make_step({"clip": {}, "caption": {"weight": 2.0}}, captions=2)
    batch = make_batch(captions=2)
    batch.fields["weights"] = batch.weights.double()
    loss, terms = step(batch.split(rows)[parallel.rank()], 0.3)
    loss.backward()
    grads = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **terms, **{n: parallel.total(g) / parallel.world() for n, g in grads.items()}}


@pytest.mark.dist
def test_ranks_with_different_numbers_of_tokens_equal_one():
    batch = make_batch(captions=2)
    assert len({int(part.lengths.sum()) for part in batch.split(5)}) == 2
    alone = share(10)
    for seen in run(2, share, 5):
        torch.testing.assert_close(seen, alone, rtol=bounds.bound(terms=16), atol=1e-10)  # the scale is float32


@pytest.mark.dist
def test_two_processes_in_micro_batches_equal_one(settings, tmp_path, unbroken):
    finish(start([*settings, *MORE, "micro_batch=3"], launch=["--processes", "2"]))
    one, two = (log(f, *COLUMNS) for f in (unbroken.parent.parent, tmp_path / "run"))
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=bounds.bound(terms=512))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("config", ["fsdp2", "zero2", "zero3"])
@pytest.mark.parametrize("captioner", ["{layers: 2}", "{layers: 2, queries: 3, tied: false}"])
def test_sharded_weights_equal_whole_ones(config, captioner, shards, tmp_path):
    """The vectors of the words belong to the text tower and are read by the loss: they must be whole there."""
    if config.startswith("zero"):
        pytest.importorskip("deepspeed")
    shared = [f"data.train={shards}", "steps=6", f"model.captioner={captioner}", MORE[1]]
    run_here([*shared, f"out={tmp_path / 'one'}"])
    runs = {name: [f"out={tmp_path / name}", *more] for name, more in (("two", []), ("micro", ["micro_batch=3"]))}
    (tmp_path / "task.json").write_text(json.dumps({"shared": shared, "runs": runs}))
    launch(config, str(tmp_path / "task.json"))
    for name in runs:
        for a, b in zip(log(tmp_path / "one", *COLUMNS), log(tmp_path / name, *COLUMNS), strict=True):
            assert b == pytest.approx(a, rel=1e-4)


def test_a_continued_run_equals_an_unbroken_one(settings, tmp_path, unbroken):
    again = run_here([*settings, *MORE, f"resume={unbroken.parent / 'step-00000005'}"])
    for name in ("model/captioner/model", "average/captioner/model", "model/model", "state/optimizer"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (again, unbroken))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    assert log(tmp_path / "run", *COLUMNS) == log(unbroken.parent.parent, *COLUMNS)[5:]


def test_the_folder_beside_the_captioner_is_a_plain_clip_model(unbroken):
    from transformers import CLIPModel

    _, info = CLIPModel.from_pretrained(unbroken / "model", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    whole = TwoTower.load(unbroken / "model")
    assert whole.captioner is not None
    assert not any(name.startswith("captioner") for name in whole.encoders().state_dict())


def test_a_run_can_start_from_it_with_and_without_the_captioner(settings, unbroken):
    same = [*settings, f"model.preset={unbroken / 'model'}", f"init.source={unbroken / 'model'}", "optim.lr=1e-30"]
    with_it = TwoTower.load(run_here([*same, MORE[1], "steps=1"]) / "model")
    source = TwoTower.load(unbroken / "model")
    torch.testing.assert_close(with_it.state_dict(), source.state_dict(), atol=bounds.bound(terms=16), rtol=0)
    other = [*same, "model.captioner={layers: 1}", MORE[1], "steps=1", f"out={settings[1].removeprefix('out=')}2"]
    anew = TwoTower.load(run_here(other) / "model").state_dict()
    assert torch.allclose(
        anew["visual_projection.weight"], source.visual_projection.weight, atol=bounds.bound(terms=16)
    )
    mine, its = anew["captioner.layers.0.mlp.fc1.weight"], source.captioner.layers[0].mlp.fc1.weight
    assert not torch.allclose(mine, its, atol=1e-3)


def test_captions_without_a_captioner_are_refused(settings):
    with pytest.raises(UserError, match=r"objectives.caption needs caption_states.*caption decoder"):
        run_here([*settings, MORE[1]])
