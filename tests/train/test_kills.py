"""A kill in every call that changes the disk, one after the other: a save, the log, a resume."""

import json
import os
import shutil

import pytest

from mmclr.config import load
from mmclr.train import trainer
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.logging.log import Log
from mmclr.train.run import RunConfig
from tests.kills import kill_at_every_call
from tests.train.runs import log, run_here
from tests.train.snapshots import snapshot


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step that is there"])
def test_a_save(again, tmp_path):
    """There is always a whole checkpoint, and what a kill left goes when the run is started again."""
    old, new = snapshot(2), snapshot(2 if again else 4)
    folder, first = checkpoint.folder_of(tmp_path, new.position["step"]), tmp_path / "first"
    old.write(first)

    def prepare():
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        folder.parent.mkdir()
        shutil.copytree(first, checkpoint.folder_of(tmp_path, 2))

    def save():
        new.write(folder)
        checkpoint.prune(tmp_path, 1)

    def check(number):
        checkpoint.sweep(tmp_path)
        newest = checkpoint.latest(tmp_path)
        assert newest is not None, f"call {number}"
        assert {path.name for path in folder.parent.iterdir()} <= {"step-00000002", "step-00000004"}, f"call {number}"
        assert checkpoint.read_position(newest)["step"] in (2, 4)

    calls = kill_at_every_call(save, check, prepare, stride=5)
    assert calls > 25
    assert checkpoint.latest(tmp_path) == folder


def test_the_log(tmp_path):
    """Cut at a resume, and written on: every line of the kept steps is there, whole, at any moment."""
    path, lines = tmp_path / "log.jsonl", [json.dumps({"step": n, "loss": 1 / n}) for n in range(1, 9)]

    def prepare():
        path.write_text("\n".join(lines) + '\n{"step": 9, "lo')  # as a kill left it

    def work():
        with Log(path, 5) as made:
            made.write({"step": 6, "loss": 2.0})

    def check(number):
        found = path.read_text().splitlines()
        assert found[:5] == lines[:5], f"call {number}"

    assert kill_at_every_call(work, check, prepare) >= 4
    assert path.read_text().splitlines() == [*lines[:5], '{"step": 6, "loss": 2.0}']


def test_a_log_that_finds_no_room_keeps_its_lines(tmp_path, monkeypatch):
    write, room = os.write, [30]

    def scarce(handle, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        count = write(handle, bytes(data[: room[0]]))
        room[0] -= count
        return count

    rows = [{"step": n, "loss": 0.5} for n in range(1, 6)]
    with Log(tmp_path / "log.jsonl", 0) as made:
        monkeypatch.setattr(os, "write", scarce)
        assert made.write(rows[0])
        assert not made.write(rows[1])
        assert made.fault == "No space left on device"
        assert not made.write(rows[2])
        room[0] = 10_000
        assert made.write(rows[3])
        assert not made.fault
        monkeypatch.undo()
        made.write(rows[4])
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == rows


@pytest.mark.slow
def test_a_training(settings, tmp_path):
    """Killed in every 17th call of a run that saves, then started again: as one that was never killed."""
    settings = [*settings, "steps=4", "save.every_steps=1", "save.keep=1", "trackers=none"]
    whole = run_here([*settings, f"out={tmp_path / 'whole'}"])
    run = load(RunConfig, "debug.yaml", settings)

    def prepare():
        shutil.rmtree(run.folder, ignore_errors=True)

    def check(number):
        if checkpoint.latest(run.folder) != checkpoint.folder_of(run.folder, 4):
            pid = os.fork()
            if pid == 0:
                trainer.train(run, quiet=True)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        ours = checkpoint.latest(run.folder)
        for name in ("model/model.safetensors", "average/model.safetensors", "state/optimizer.safetensors"):
            assert (ours / name).read_bytes() == (whole / name).read_bytes(), f"call {number}"
        assert log(run.folder, "step", "loss") == log(tmp_path / "whole", "step", "loss"), f"call {number}"
        assert not list(ours.parent.glob(".*"))

    assert kill_at_every_call(lambda: trainer.train(run, quiet=True), check, prepare, stride=17) > 50
