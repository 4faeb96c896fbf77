"""Whole runs: several processes equal one, a killed run ends as an unbroken one, faults are said in a sentence."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from mmclr.config import load
from mmclr.errors import UserError
from mmclr.train.command import main
from mmclr.train.run import RunConfig
from tests import bounds
from tests.train.runs import finish, log, run_here, start


def files(checkpoint):
    names = ("model/model.safetensors", "average/model.safetensors", "state/optimizer.safetensors", "position.json")
    return {name: (checkpoint / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    settings = [f"data.train={shards}", f"out={folder}", "steps=12", "average.decay=0.9", "patch_dropout=0.25"]
    return run_here(settings)


@pytest.mark.dist
@pytest.mark.parametrize(
    "how",
    [
        ["--processes", "2"],
        ["--multi_gpu", "--num_processes", "2"],
        ["--config_file", "configs/accelerate/2_cpus.yaml"],
    ],
)
def test_two_processes_equal_one(settings, tmp_path, unbroken, how):
    finish(start(settings, how))
    one, two = (log(f, "loss", "grad_norm", "scale") for f in (unbroken.parent.parent, tmp_path / "run"))
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=bounds.bound(terms=512))


def test_a_killed_run_ends_as_an_unbroken_one(settings, tmp_path, unbroken):
    settings = [*settings, "save.every_steps=3", "data.workers=1"]
    process = start(settings, start_new_session=True)
    path = tmp_path / "run" / "checkpoints" / "step-00000006" / "position.json"
    deadline = time.monotonic() + 120
    while not path.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    said = finish(start(settings))
    assert "resuming after step" in said or "step-00000012" in said
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000012"
    assert log(tmp_path / "run", "step", "loss") == log(unbroken.parent.parent, "step", "loss")
    ours, theirs = files(checkpoint), files(unbroken)
    for name in ("model/model.safetensors", "average/model.safetensors"):
        assert ours[name] == theirs[name], name


@pytest.mark.dist
def test_a_process_that_dies_takes_the_run_down_with_a_sentence(settings, tmp_path):
    process = start([*settings, "steps=100000", "save.every_minutes=0"], ["--processes", "2"])
    wait_for_the_first_step(process, tmp_path / "run")
    (second,) = [p for p in psutil.Process(process.pid).children(recursive=True) if rank(p) == "1"]
    second.kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "mmclr train: another process of this run has stopped" in said
    assert "process 1 was ended by SIGKILL" in said
    assert "goes on from the newest checkpoint" in said


def rank(process):
    with contextlib.suppress(psutil.Error):
        return process.environ().get("RANK")


def wait_for_the_first_step(process, run):
    while not (run / "log.jsonl").is_file() or not log(run, "step"):
        time.sleep(0.01)
        assert process.poll() is None


def test_sigterm_saves_and_the_same_command_goes_on(settings, tmp_path, unbroken):
    process = start([*settings, "steps=12"])
    wait_for_the_first_step(process, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == (143 if "stopped by SIGTERM" in said else 0), said
    if process.returncode:  # else it was already at its end
        step = int(said.split("after step ")[1].split()[0])
        assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "position.json").is_file()
    finish(start(settings))
    ours = files(tmp_path / "run" / "checkpoints" / "step-00000012")
    assert ours["model/model.safetensors"] == files(unbroken)["model/model.safetensors"]


@pytest.mark.dist
def test_all_ranks_stop_together_when_one_is_asked_to(settings, tmp_path):
    process = start([*settings, "steps=100000", "save.every_minutes=0"], ["--processes", "2"])
    wait_for_the_first_step(process, tmp_path / "run")
    (second,) = [p for p in psutil.Process(process.pid).children(recursive=True) if rank(p) == "1"]
    second.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM" in said
    assert "checkpoint: " in said
    (folder,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert f"after step {int(folder.name[5:])} of 100000" in said


def test_the_log_says_what_happens(unbroken):
    rows = [json.loads(line) for line in (unbroken.parent.parent / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    for row in rows:
        assert {"loss", "clip", "scale", "lr", "grad_norm", "samples_per_s", "data_wait"} <= row.keys()
        assert 0 <= row["data_wait"] <= 1
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_folder_has_one_writer(settings, tmp_path, monkeypatch):
    from mmclr.train.checkpoints import lock

    held = lock.hold(tmp_path / "run")
    with pytest.raises(UserError, match="another process trains in this folder"):
        lock.hold(tmp_path / "run", patience=0.3)

    held.release()
    lock.hold(tmp_path / "run", patience=0).release()  # free again


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.train=nowhere/{0..3}.tar", "nowhere/0.tar"),
        ("data.train=nowhere/*.tar", "nowhere/"),
        ("data.batch=64", "larger than the data: 60"),
        ("data.caption=json:title", "title|json"),
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean lr?"),
        ("objectives.clipp.weight=1", "no objective 'clipp'; did you mean clip?"),
        ("objectives.clip.image_wieght=1", "objectives.clip.image_wieght: unknown key; did you mean image_weight?"),
        ("epochs=3", "exactly one of steps, epochs, samples"),
        ("tokenizer=nowhere", "nowhere: no tokenizer.json there"),
        ("model.image.patch=7", "is not a multiple of image.patch 7"),
        ("precision=fp16", "fp16 needs a GPU"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, setting, message):
    with pytest.raises(UserError, match=message):
        main(["debug.yaml", *settings, setting])


def test_resuming_on_other_data_is_refused(settings, unbroken, tmp_path):
    first = Path(settings[0].removeprefix("data.train=")).parent / "00000.tar"
    with pytest.raises(UserError, match="cannot go on where it stopped"):
        run_here([*settings, f"resume={unbroken}", f"data.train={first}", "steps=20"])


def test_a_folder_that_cannot_be_made_is_a_sentence(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out: .*file cannot be written"):
        run_here([*settings, f"out={tmp_path / 'file'}"])
    with pytest.raises(UserError, match=r"out: s3://bucket/run is no folder of this machine; set save.remote"):
        run_here([*settings, "out=s3://bucket/run"])


@pytest.mark.parametrize(
    "words", ["Application timeout caused pair closure", "[gloo/x.cc:1] Connection closed by peer"]
)
def test_a_process_that_is_not_heard_of_is_a_sentence(words, monkeypatch):
    from mmclr import parallel
    from mmclr.train.processes import join

    monkeypatch.setattr(parallel, "world", lambda: 2)
    with pytest.raises(UserError, match="another process .* was not heard of for 3 minutes"), join.joined(3.0):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="a fault of our own"), join.joined(3.0):
        raise RuntimeError("a fault of our own")


def test_a_signal_to_the_launcher_is_no_traceback(monkeypatch):
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from mmclr.train.processes import launch

    def stopped(words):
        raise SignalException("Process 1 got signal: 15", signal.SIGTERM)

    monkeypatch.setattr(torch.distributed.run, "main", stopped)
    monkeypatch.setattr(launch, "die_with_parent", lambda: None)
    monkeypatch.delenv("RANK", raising=False)
    assert launch.start(2, ["debug.yaml"]) == 143, "as a run in one process ends"


@pytest.mark.dist
def test_accelerate_that_starts_one_of_several_is_told_what_to_write(settings, tmp_path):
    """Without an accelerator it starts one process, and would train on half of what was asked for."""
    process = start(settings, ["--num_processes", "2"])
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "mmclr train: accelerate launch was asked for several processes but has started one alone" in said
    assert "mmclr train --processes N" in said
    assert not (tmp_path / "run").exists()


def test_processes_share_a_batch_evenly(settings):
    with pytest.raises(UserError, match="data.batch=16 cannot be divided among 3 processes"):
        main(["debug.yaml", *settings, "--processes", "3"])


@pytest.mark.parametrize("wrong", ["optim.betas=[0.9, 1]", "seed=99999999999999999999", "seed=-1"])
def test_numbers_that_torch_would_refuse_are_refused_with_their_name(wrong, settings):
    with pytest.raises(UserError, match=wrong.split("=")[0]):
        load(RunConfig, "debug.yaml", [*settings, wrong])


@pytest.mark.parametrize(
    ("tail", "epochs", "steps"), [("carry", 2, 21), ("pad", 2, 22), ("pad", 1, 11), ("pad", 0.5, 6)]
)
def test_epochs_that_are_padded_end_with_their_padded_batch(tail, epochs, steps, settings):
    run = load(
        RunConfig, "debug.yaml", [*settings, "steps=null", f"epochs={epochs}", f"data.tail={tail}", "data.batch=10"]
    )
    assert run.total_steps(105) == steps


def test_nothing_to_learn_is_a_sentence(settings):
    with pytest.raises(UserError, match="lock: nothing is left to learn"):
        run_here([*settings, "objectives={clip: null, alignment: {}}", "lock={image: all, text: all}"])


def test_a_checkpoint_of_another_architecture_is_refused(settings, unbroken):
    with pytest.raises(UserError, match="another architecture"):
        run_here([*settings, f"resume={unbroken}", "model.image.width=32"])
    with pytest.raises(UserError, match="no checkpoint there"):
        run_here([*settings, "resume=nowhere"])
