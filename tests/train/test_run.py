"""Whole runs: several processes equal one, a killed run ends as an unbroken one, faults are said in a sentence."""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from mmclr.config import load
from mmclr.errors import UserError
from mmclr.train import checkpoint
from mmclr.train.run import RunConfig, main
from tests.train.runs import finish, log, start


def run_here(settings):
    from mmclr.train.trainer import train

    return train(load(RunConfig, "debug.yaml", settings), quiet=True)


def files(checkpoint):
    names = ("model/model.safetensors", "average/model.safetensors", "state/optimizer.safetensors", "position.json")
    return {name: (checkpoint / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    settings = [f"data.train={shards}", f"out={folder}", "steps=12", "average.decay=0.9", "patch_dropout=0.25"]
    return run_here(settings)


@pytest.mark.dist
@pytest.mark.parametrize("how", [["--num_processes", "2"], ["--config_file", "configs/accelerate/2_cpus.yaml"]])
def test_two_processes_equal_one(settings, tmp_path, unbroken, how):
    finish(start(settings, how))
    one, two = (log(f, "loss", "grad_norm", "scale") for f in (unbroken.parent.parent, tmp_path / "run"))
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=1e-5)


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
    process = start([*settings, "steps=100000", "save.every_minutes=0"], ["--num_processes", "2"])
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
    said = finish(process)
    if "stopped by SIGTERM" in said:  # else it was already at its end
        step = int(said.split("after step ")[1].split()[0])
        assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "position.json").is_file()
    finish(start(settings))
    ours = files(tmp_path / "run" / "checkpoints" / "step-00000012")
    assert ours["model/model.safetensors"] == files(unbroken)["model/model.safetensors"]


@pytest.mark.dist
def test_all_ranks_stop_together_when_one_is_asked_to(settings, tmp_path):
    process = start([*settings, "steps=100000", "save.every_minutes=0"], ["--num_processes", "2"])
    wait_for_the_first_step(process, tmp_path / "run")
    (second,) = [p for p in psutil.Process(process.pid).children(recursive=True) if rank(p) == "1"]
    second.send_signal(signal.SIGTERM)
    said = finish(process)
    assert "checkpoint: " in said
    (folder,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert f"after step {int(folder.name[5:])} of 100000" in said


def steps_of(run):
    return [int(path.name[5:]) for path in sorted((run / "checkpoints").glob("step-*"))]


def again(settings, capfd):
    """Train, and return what was said."""
    from mmclr.train.trainer import train

    train(load(RunConfig, "debug.yaml", settings))
    return capfd.readouterr().err.replace("\n", " ")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "position.json").unlink(), "position.json is missing"),
        (lambda folder: (folder / "position.json").write_text(""), "position.json is damaged"),
        (lambda folder: cut(folder / "position.json"), "position.json is damaged"),
        (lambda folder: (folder / "position.json").write_text("[]"), "position.json is damaged"),
        (lambda folder: (folder / "state" / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
        (lambda folder: cut(folder / "model" / "model.safetensors"), "model/model.safetensors has .* bytes"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(damage, said, settings, tmp_path, capfd):
    """The run goes on from the one before it, as if that were the newest, and keeps as many as it should."""
    settings = [*settings, "save.every_steps=2", "save.keep=2"]
    newest = run_here([*settings, "steps=6"])
    damage(newest)
    (newest.parent / ".partial-step-00000099").mkdir()
    heard = again([*settings, "steps=7"], capfd)
    assert re.search(rf"step-00000006: this checkpoint is not whole \(.*{said}\); passed over", heard)
    assert "resuming after step 4 of 7" in heard
    assert ".partial-step-00000099: a checkpoint that was not finished; deleted" in heard
    assert steps_of(tmp_path / "run") == [6, 7]
    assert (newest.parent / "aside-1" / "step-00000006").is_dir()
    if "position" not in said:
        with pytest.raises(UserError, match=rf"step-00000006: this checkpoint is not whole \(.*{said}"):
            run_here([*settings, f"resume={newest.parent / 'aside-1' / 'step-00000006'}"])


def test_what_a_new_attempt_saves_stays(settings, tmp_path, capfd):
    """Begun anew or gone back, a run is not lost among the later checkpoints of the attempt before it."""
    run, settings = tmp_path / "run", [*settings, "save.every_steps=2", "save.keep=2"]
    run_here([*settings, "steps=8"])
    old = (run / "checkpoints" / "step-00000008" / "model" / "model.safetensors").read_bytes()
    heard = again([*settings, "steps=4", "resume=never", "seed=7"], capfd)
    assert f"after step 0 is in {run}/checkpoints/aside-1 now" in heard
    assert steps_of(run) == [2, 4]
    aside = run / "checkpoints" / "aside-1"
    assert (aside / "step-00000008" / "model" / "model.safetensors").read_bytes() == old
    assert len((aside / "log.jsonl").read_text().splitlines()) == 8
    assert "seed: 7" in (run / "checkpoints" / "step-00000004" / "config.yaml").read_text()
    heard = again([*settings, "steps=3", "seed=7", f"resume={run}/checkpoints/step-00000002"], capfd)
    assert "after step 2 is in" in heard
    assert steps_of(run) == [2, 3]
    assert "aside" not in again([*settings, "steps=4", "seed=7"], capfd), (
        "going on from the newest leaves nothing behind"
    )
    back = run_here([*settings, f"resume={aside}/step-00000008", "steps=9"])
    assert back.name == "step-00000009"


def test_a_kill_while_a_step_is_saved_again_loses_nothing(settings, tmp_path, monkeypatch):
    """There is always one whole folder of that step: the old one, until the new one has its name."""
    folder = run_here([*settings, "steps=4"])
    rename = Path.rename

    def killed(self, target):
        if self.name.startswith(".partial-"):
            raise KeyboardInterrupt
        return rename(self, target)

    snapshot = json.loads((folder / "position.json").read_text())
    monkeypatch.setattr(Path, "rename", killed)
    partial = folder.with_name(".partial-" + folder.name)
    shutil.copytree(folder, partial)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.put_in_place(partial, folder)
    monkeypatch.undo()
    assert not folder.exists()
    assert checkpoint.sweep(tmp_path / "run") == [partial]
    assert checkpoint.latest(tmp_path / "run") == folder
    assert checkpoint.read_position(folder) == snapshot
    shutil.copytree(folder, folder.with_name(".replaced-" + folder.name))  # killed after the new one had its name
    checkpoint.sweep(tmp_path / "run")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_old_checkpoints_go(settings, tmp_path):
    folder = run_here([*settings, "steps=6", "save.every_steps=1", "save.keep=2"])
    assert sorted(p.name for p in folder.parent.iterdir()) == ["step-00000005", "step-00000006"]


def test_the_log_says_what_happens(unbroken):
    rows = [json.loads(line) for line in (unbroken.parent.parent / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    for row in rows:
        assert {"loss", "clip", "scale", "lr", "grad_norm", "samples_per_s", "data_wait"} <= row.keys()
        assert 0 <= row["data_wait"] <= 1
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_folder_has_one_writer(settings, tmp_path, monkeypatch):
    from mmclr.train import lock

    held = lock.hold(tmp_path / "run")
    with pytest.raises(UserError, match="another process trains in this folder"):
        lock.hold(tmp_path / "run", patience=0.3)

    held.close()
    lock.hold(tmp_path / "run", patience=0).close()  # free again


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
        ("model.image.patch=7", "not a multiple of patch"),
        ("precision=fp16", "fp16 needs a GPU"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, setting, message):
    with pytest.raises(UserError, match=message):
        main(["debug.yaml", *settings, setting])


def test_a_checkpoint_of_another_architecture_is_refused(settings, unbroken):
    with pytest.raises(UserError, match="another architecture"):
        run_here([*settings, f"resume={unbroken}", "model.image.width=32"])
    with pytest.raises(UserError, match="no checkpoint there"):
        run_here([*settings, "resume=nowhere"])


def test_resuming_on_other_data_is_refused(settings, unbroken, tmp_path):
    first = Path(settings[0].removeprefix("data.train=")).parent / "00000.tar"
    with pytest.raises(UserError, match="cannot go on where it stopped"):
        run_here([*settings, f"resume={unbroken}", f"data.train={first}", "steps=20"])


def test_a_checkpoint_of_another_optimizer_is_refused(settings):
    run_here([*settings, "steps=2", "optim.kind=muon"])
    with pytest.raises(UserError, match="saved with optim.kind=muon, whose state adamw cannot read.*init.source="):
        run_here([*settings, "steps=4"])


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
    from mmclr.train import processes

    monkeypatch.setattr(parallel, "world", lambda: 2)
    with pytest.raises(UserError, match="another process .* was not heard of for 3 minutes"), processes.joined(3.0):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="a fault of our own"), processes.joined(3.0):
        raise RuntimeError("a fault of our own")


def test_a_signal_to_the_launcher_is_no_traceback(monkeypatch):
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from mmclr.train import launch

    def stopped(words):
        raise SignalException("Process 1 got signal: 15", signal.SIGTERM)

    monkeypatch.setattr(torch.distributed.run, "main", stopped)
    monkeypatch.setattr(launch, "die_with_parent", lambda: None)
    asked = argparse.Namespace(num_machines=1, machine_rank=0, num_processes=2)
    monkeypatch.setattr(launch, "_asked_for", lambda: asked)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29999")
    assert launch.start_missing_processes(["debug.yaml"]) == 0, "as a run in one process ends"


@pytest.mark.parametrize("wrong", ["optim.betas=[0.9, 1]", "seed=99999999999999999999", "seed=-1"])
def test_numbers_that_torch_would_refuse_are_refused_with_their_name(wrong, settings):
    with pytest.raises(UserError, match=wrong.split("=")[0]):
        load(RunConfig, "debug.yaml", [*settings, wrong])


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew(settings, tmp_path):
    folder = run_here([*settings, "steps=2"])
    cut(folder / "model" / "model.safetensors")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"step-00000002: .* not whole .*, nor is any other; resume=never begins anew"
        ):
            run_here([*settings, "steps=4"])
    assert steps_of(tmp_path / "run") == [2]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_launcher_that_starts_a_run_again_goes_on_with_it(name, settings, monkeypatch, tmp_path):
    run_here([*settings, "steps=2", "resume=never"])
    monkeypatch.setenv(name, "0")
    run_here([*settings, "steps=3", "resume=never"])
    assert (tmp_path / "run" / "checkpoints" / "aside-1").is_dir()
    monkeypatch.setenv(name, "1")
    run_here([*settings, "steps=4", "resume=never"])
    assert [step for (step,) in log(tmp_path / "run", "step")] == [1, 2, 3, 4]
    assert not (tmp_path / "run" / "checkpoints" / "aside-2").exists()


def test_what_a_run_reads_is_not_moved_from_under_it(settings, tmp_path):
    folder = run_here([*settings, "steps=2"])
    with pytest.raises(UserError, match="moved aside from under it; set out to another folder"):
        run_here([*settings, "steps=2", "resume=never", f"init.source={folder}"])
    assert folder.is_dir()


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
