"""Nothing is lost: kills at any moment, checkpoints on remote storage, disks that fail, the best that stays."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmclr import parallel
from mmclr.config import load
from mmclr.errors import UserError
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.checkpoints import state
from mmclr.train.checkpoints.folder import Snapshot
from mmclr.train.checkpoints.remote import Remote
from mmclr.train.checkpoints.saver import Saver
from mmclr.train.run import RunConfig, SaveConfig
from mmclr.train.trainer import Trainer, train
from tests.train.runs import log


@pytest.mark.parametrize(("kills", "steps"), [(3, 24), pytest.param(20, 120, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_as_if_unbroken(kills, steps, settings, tmp_path):
    """SIGKILL at random moments and inside saves: the same weights, optimizer state and log, bit for bit."""
    settings = [*settings, f"steps={steps}", "save.every_steps=2", "save.keep=0", "log_every=2"]
    command = [sys.executable, str(Path(__file__).parent / "torture.py"), str(kills), "0", *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:]
    inside = int(done.stdout.split("killed ")[1].split()[0])
    assert inside >= kills // 3
    whole = train(load(RunConfig, "debug.yaml", [*settings, f"out={tmp_path / 'whole'}"]), quiet=True)
    killed = tmp_path / "run" / "checkpoints" / whole.name
    for name in ("model/model", "average/model", "state/optimizer", "state/objectives"):
        ours, theirs = ((x / f"{name}.safetensors").read_bytes() for x in (killed, whole))
        assert ours == theirs, name
    assert log(tmp_path / "run", "step", "loss") == log(tmp_path / "whole", "step", "loss")
    assert not list((tmp_path / "run" / "checkpoints").glob(".partial-*"))


def test_remote_storage_has_what_the_disk_had(settings, tmp_path):
    """A machine with an empty disk goes on from it, and ends with the same weights."""
    remote = f"file://{tmp_path / 'bucket'}"
    run = load(RunConfig, "debug.yaml", [*settings, "save.every_steps=4", f"save.remote={remote}"])
    last = train(run, quiet=True)
    assert Remote(remote).steps() == [8, 12]  # keep: 2
    assert (tmp_path / "bucket" / "log.jsonl").is_file()
    weights = load_file(last / "model" / "model.safetensors")
    (tmp_path / "bucket" / "checkpoints" / "step-00000012" / "position.json").unlink()  # as if the copy was cut off
    other = load(RunConfig, "debug.yaml", [*settings, f"save.remote={remote}", f"out={tmp_path / 'other'}"])
    again = train(other, quiet=True)
    assert (tmp_path / "other" / "checkpoints" / "step-00000008").is_dir()
    for name, value in load_file(again / "model" / "model.safetensors").items():
        assert value.equal(weights[name])


def test_remote_storage_keeps_attempts_apart_and_passes_over_what_is_damaged(settings, tmp_path, capfd):
    bucket = tmp_path / "bucket" / "checkpoints"
    settings = [*settings, "save.every_steps=2", f"save.remote=file://{tmp_path / 'bucket'}"]
    train(load(RunConfig, "debug.yaml", [*settings, "steps=8"]), quiet=True)
    train(load(RunConfig, "debug.yaml", [*settings, "steps=4", "resume=never", "seed=3"]), quiet=True)
    assert Remote(f"file://{tmp_path / 'bucket'}").steps() == [2, 4]
    assert [path.name for path in sorted((bucket / "aside-1").iterdir())] == ["step-00000006", "step-00000008"]
    assert not (bucket / "step-00000008").exists()
    assert (bucket / "aside-1" / "step-00000008" / "state" / "optimizer.safetensors").is_file()
    (bucket / "step-00000004" / "model" / "model.safetensors").write_bytes(b"cut")
    capfd.readouterr()
    train(load(RunConfig, "debug.yaml", [*settings, "steps=3", "seed=3", f"out={tmp_path / 'other'}"]))
    said = capfd.readouterr().err.replace("\n", " ")
    assert "step 4 in file://" in said
    assert "model/model.safetensors has 3 of" in said
    assert "resuming after step 2 of 3" in said


def test_the_best_of_another_metric_is_not_compared(settings, tmp_path):
    from accelerate import Accelerator

    saver = Saver(SaveConfig(best="-set/loss"), tmp_path, Accelerator())
    assert saver.improves(2, {"set/loss": 5.0})
    saver.config = SaveConfig(best="set/recall")
    assert saver.improves(4, {"set/recall": 0.5})
    assert not saver.improves(6, {"set/recall": 0.4})
    assert saver.best == {"metric": "set/recall", "step": 4, "value": 0.5}


def test_a_best_that_nothing_measures_is_said(settings, shards, tmp_path, capfd):
    for best in ("flickr/loss", "-set", "st/loss"):
        with pytest.raises(UserError, match=f"save.best: {best} is the metric of an evaluation.*evaluate has none"):
            train(load(RunConfig, "debug.yaml", [*settings, f"save.best={best}"]))
    sets = f"evaluate={{set: {{suite: loss, data: '{shards}', every_steps: 4}}}}"
    train(load(RunConfig, "debug.yaml", [*settings, sets, "save.best=-set/los"]))
    said = capfd.readouterr().err.replace("\n", " ")
    assert said.count("there is no set/los; did you mean set/loss?") == 1
    assert not (tmp_path / "run" / "best.json").exists()


def test_remote_storage_that_fails_ends_nothing(settings, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("mmclr.train.checkpoints.remote.PAUSE", 0.001)
    monkeypatch.setattr(Remote, "put", lambda self, path, name: (_ for _ in ()).throw(OSError("no route to host")))
    run = load(RunConfig, "debug.yaml", [*settings, "save.every_steps=6", f"save.remote=file://{tmp_path}/bucket"])
    assert train(run).name == "step-00000012"
    said = capfd.readouterr().err.replace("\n", " ")
    assert "step-00000006 could not be copied to" in said
    assert "no route to host" in said


def test_unknown_storage_is_a_sentence(settings):
    with pytest.raises(UserError, match="save.remote: nosuch://x"):
        train(load(RunConfig, "debug.yaml", [*settings, "save.remote=nosuch://x"]), quiet=True)


def test_a_disk_that_fails_ends_the_run_with_a_sentence(settings, monkeypatch):
    def fail(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Snapshot, "write", fail)
    with pytest.raises(UserError, match="a checkpoint cannot be written: .*No space left"):
        train(load(RunConfig, "debug.yaml", [*settings, "save.every_steps=2"]), quiet=True)


def test_the_best_stays(settings, shards, tmp_path):
    from accelerate import Accelerator

    best = [f"evaluate={{set: {{suite: loss, data: '{shards}'}}}}", "save.best=-set/loss", "save.keep=1"]
    trainer = Trainer(load(RunConfig, "debug.yaml", [*settings, *best]), Accelerator())
    saver = trainer.saver
    for step, value in [(2, 3.0), (4, 1.0), (6, 2.0), (8, 2.5)]:
        trainer.taken = step
        assert saver.improves(step, {"set/loss": value, "set/other": 0.0}) == (step in (2, 4))
        saver.save(step, lambda: state.take(trainer))
    saver.wait()
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))]
    assert names == ["step-00000004", "step-00000008"]
    assert json.loads((tmp_path / "run" / "best.json").read_text()) == {"metric": "set/loss", "step": 4, "value": 1.0}
    assert not saver.improves(10, {"another": 0.0})


def test_saves_by_steps_and_by_minutes(settings, monkeypatch):
    from accelerate import Accelerator

    from mmclr.train.checkpoints import saver

    now = [0.0]
    monkeypatch.setattr(saver.time, "monotonic", lambda: now[0])
    config = saver.SaveConfig(every_steps=4, every_minutes=2.0)
    made = saver.Saver(config, load(RunConfig, "debug.yaml", settings).folder, Accelerator())
    assert [made.due(step) for step in range(1, 6)] == [False, False, False, True, False]
    now[0] = 121.0
    assert made.due(5)
    made.save(5, lambda: None)
    assert not made.due(6)
    now[0] = 240.0
    assert not made.due(7), "two minutes after the last, not at full minutes"
    now[0] = 242.0
    assert made.due(7)


def test_a_run_does_not_wait_for_the_disk(settings, tmp_path, monkeypatch):
    """Steps go on while a checkpoint is being written, and what is written is of the step that it names."""
    writing, written = threading.Event(), []

    def write(snapshot, folder):
        if not written:
            assert writing.wait(60), "the run waits for the disk"
        written.append((folder.name, snapshot.models["model"].text_projection.weight.clone()))

    take_step = Trainer.take_step

    def stepped(self, batch):
        out = take_step(self, batch)
        weights[self.taken] = self.model.text_projection.weight.detach().clone()
        if self.taken == 4:
            writing.set()
        return out

    weights = {}
    monkeypatch.setattr(Snapshot, "write", write)
    monkeypatch.setattr(Trainer, "take_step", stepped)
    train(load(RunConfig, "debug.yaml", [*settings, "steps=5", "save.every_steps=3"]), quiet=True)
    assert [name for name, _ in written] == ["step-00000003", "step-00000005"]
    for step, (_, saved) in zip((3, 5), written):
        assert torch.equal(saved, weights[step])


def test_a_metric_that_is_no_number_is_not_the_best(tmp_path):
    from accelerate import Accelerator

    saver = Saver(SaveConfig(best="set/recall"), tmp_path, Accelerator())
    assert saver.improves(2, {"set/recall": 0.5})
    assert not saver.improves(4, {"set/recall": float("nan")})
    assert not saver.improves(6, {"set/recall": 0.4})
    assert saver.best["step"] == 2


def test_a_best_that_has_gone_is_forgotten(tmp_path):
    from accelerate import Accelerator

    saver = Saver(SaveConfig(best="set/recall"), tmp_path, Accelerator())
    best = {"metric": "set/recall", "step": 2, "value": 0.5}
    saver.remember(best)
    assert saver.best == {}
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    saver.remember(best)
    assert saver.best == best
    (tmp_path / "best.json").write_text("")  # cut off
    aside = checkpoint.set_aside(tmp_path, 1)
    assert sorted(path.name for path in aside.iterdir()) == ["best.json", "step-00000002"]


def test_machines_that_have_different_checkpoints_go_on_from_the_newest_that_all_have(tmp_path, monkeypatch):
    from accelerate import Accelerator

    for step in (2, 4, 6):
        folder = checkpoint.folder_of(tmp_path, step)
        folder.mkdir(parents=True)
        (folder / "position.json").write_text(json.dumps({"step": step}))
    saver = Saver(SaveConfig(), tmp_path, Accelerator())
    monkeypatch.setattr(parallel, "say", lambda text: [text, "step-00000002 step-00000004"])
    assert saver.source("auto") == checkpoint.folder_of(tmp_path, 4)
    assert "step-00000006: not on every machine; passed over" in saver.notes[-1]
    monkeypatch.setattr(parallel, "say", lambda text: [text, "step-00000001" if " " in text else "none"])
    with pytest.raises(UserError, match="different checkpoints in .*none, step-00000006.*copy one of them"):
        saver.source("auto")
