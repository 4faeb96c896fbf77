"""A run's checkpoints: what is damaged, what an earlier attempt left, what is saved again, what goes."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mmclr.config import load
from mmclr.errors import UserError
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train
from tests.train.runs import log, run_here


def steps_of(run):
    return [int(path.name[5:]) for path in sorted((run / "checkpoints").glob("step-*"))]


def again(settings, capfd):
    """Train, and return what was said."""
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


def test_a_checkpoint_of_another_optimizer_is_refused(settings):
    run_here([*settings, "steps=2", "optim.kind=muon"])
    with pytest.raises(UserError, match="saved with optim.kind=muon, whose state adamw cannot read.*init.source="):
        run_here([*settings, "steps=4"])


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
