"""How a run ends: asked to, without a reader, on a full disk, with caches that cannot be written."""

import errno
import json
import os
import signal
import sys
import time
import types

import pytest

from mmclr import cli
from mmclr.display import output
from mmclr.errors import UserError
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.checkpoints.folder import Snapshot
from mmclr.train.trainer import Trainer
from tests.train.runs import log, run_here
from tests.train.snapshots import snapshot


def begin(*words, stdout, stderr):
    """Start `mmclr WORDS` in a fork with these files as its outputs; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number, to in ((1, stdout), (2, stderr)):
            os.dup2(to, number)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        output._guarded.clear()
        status = cli.main(list(words))
    finally:
        os._exit(status)


def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", ["gone", "full"])
def test_a_training_without_a_reader_goes_on_to_its_last_step(kind, settings, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    to = writer if kind == "gone" else full
    pid = begin("train", "debug.yaml", *settings, "steps=3", "trackers=none", stdout=to, stderr=to)
    os.close(writer)
    os.close(full)
    assert status_of(pid) == 0
    assert checkpoint.latest(tmp_path / "run").name == "step-00000003"


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_stopped_training_has_a_status_of_its_own(number, status, settings, tmp_path):
    with open(tmp_path / "said", "w") as said:
        more = ["steps=100000", "trackers=none", "save.every_minutes=0"]
        pid = begin("train", "debug.yaml", *settings, *more, stdout=said.fileno(), stderr=said.fileno())
    deadline = time.monotonic() + 120
    while not ((tmp_path / "run" / "log.jsonl").is_file() and log(tmp_path / "run", "step")):
        time.sleep(0.01)
        assert time.monotonic() < deadline
    os.kill(pid, getattr(signal, number))
    assert status_of(pid) == status
    heard = (tmp_path / "said").read_text()
    step = int(heard.split(f"stopped by {number} after step ")[1].split()[0])
    assert "of 100000, and saved; the same command goes on" in heard
    assert checkpoint.latest(tmp_path / "run") == checkpoint.folder_of(tmp_path / "run", step)


def test_a_save_that_fails_ends_the_run_at_the_next_step(settings, tmp_path, monkeypatch):
    """The half of it goes, what was saved before stays, and nothing is learnt for nothing."""
    fill, taken = Snapshot._fill, []

    def full(self, partial):
        fill(self, partial)
        if self.position["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    take_step = Trainer.take_step
    monkeypatch.setattr(Snapshot, "_fill", full)
    monkeypatch.setattr(Trainer, "take_step", lambda self, batch: taken.append(1) or take_step(self, batch))
    monkeypatch.setattr("mmclr.train.checkpoints.saver.Saver._scarce", lambda self, snapshot: True)
    with pytest.raises(UserError, match="a checkpoint cannot be written: .*No space left.*the same command goes on"):
        run_here([*settings, "steps=6", "save.every_steps=2", "trackers=none"])
    assert len(taken) == 4
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert run_here([*settings, "steps=6", "save.every_steps=2", "trackers=none"]).name == "step-00000006"


def test_a_disk_that_might_be_full_is_waited_for(tmp_path, monkeypatch):
    from accelerate import Accelerator

    from mmclr.train.checkpoints.saver import Saver
    from mmclr.train.run import SaveConfig

    saver, whole = Saver(SaveConfig(), tmp_path, Accelerator()), snapshot(2)
    assert not saver._scarce(whole)
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=whole.bytes()))
    assert saver._scarce(whole)


def test_a_tokenizer_of_other_words_is_refused(settings, tmp_path):
    from mmclr.data.samples.text import Tokenizer

    for name, word in (("one", "cloud"), ("two", "music")):
        (tmp_path / name).mkdir()
        Tokenizer.train([f"{word} off {word}"] * 10, 530, 77).save(tmp_path / name)
    settings = [*settings, "steps=2", "trackers=none"]
    run_here([*settings, f"tokenizer={tmp_path / 'one'}"])
    with pytest.raises(UserError, match="tokenizer: .*two has another vocabulary than the run had in"):
        run_here([*settings, f"tokenizer={tmp_path / 'two'}", "steps=3"])
    (tmp_path / "one").rename(tmp_path / "moved")
    run_here([*settings, f"tokenizer={tmp_path / 'moved'}", "steps=3"])


def test_checkpoints_of_before_refuse_another_block_by_their_config(settings, tmp_path):
    folder = run_here([*settings, "steps=2", "trackers=none"])
    position = json.loads((folder / "position.json").read_text())
    for name in ("keys", "rows", "block"):
        del position["loader"][name]
    for name in ("crc32", "checksum"):
        del position[name]
    (folder / "position.json").write_text(json.dumps(position))
    with pytest.raises(UserError, match="data.block: .* was 1 .* is 4"):
        run_here([*settings, "steps=3", "trackers=none", "data.block=4"])
    assert run_here([*settings, "steps=3", "trackers=none"]).name == "step-00000003"
