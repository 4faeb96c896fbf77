"""Runs whose config names plugins: what they store loads none, and they go on where the files are."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from mmclr.cli import main
from tests import parts
from tests.plugins.own import HEAD, OWN, write

RUN = ["debug.yaml", "steps=2", "trackers=none", "objectives={mine: {use: mine_run, head: {use: turned_run}}}"]


def test_a_stored_config_runs_no_code(tmp_path, shards, capsys):
    """A run whose config names a plugin is evaluated without it; what needs it says so; --plugins loads it."""
    mark = f"\nwith open({str(tmp_path / 'ran')!r}, 'a') as file:\n    file.write('x')\n"
    file = write(tmp_path / "own.py", OWN.format(key="mine_run") + HEAD.format(key="turned_run") + mark)
    run = tmp_path / "run"
    assert main(["train", *RUN, f"data.train={shards}", f"out={run}", f"plugins=[{file}]"]) == 0
    stored = next((run / "checkpoints").glob("step-*")) / "config.yaml"
    assert yaml.safe_load(stored.read_text())["plugins"] == [file]
    words = ["eval", "retrieval", str(run), "--data", shards]
    with parts.nothing_loaded():
        assert main(words) == 0
        assert main(["export", "transformers", str(run), str(tmp_path / "exported")]) == 0
        assert main(["report", str(run)]) == 0
        assert (tmp_path / "ran").read_text() == "x"  # in training alone
        capsys.readouterr()
        assert main([*words, "--head", "mine"]) == 2
        said = capsys.readouterr().err
        assert "code that is not loaded unasked: if you trust it, add --plugins " + file in said
        assert (tmp_path / "ran").read_text() == "x"
        assert main([*words, "--head", "mine", "--plugins", file]) == 0
        assert (tmp_path / "ran").read_text() == "xx"


def test_a_run_goes_on_in_another_folder_or_says_what_is_gone(tmp_path, shards, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    file = write(tmp_path / "own.py", OWN.format(key="mine_again"))
    tree = "base: debug.yaml\nplugins: [own.py]\nobjectives: {mine_again: {}}\nsteps: 2\ntrackers: none\n"
    config = write(tmp_path / "own.yaml", f"{tree}out: {tmp_path}/run\ndata: {{train: '{shards}'}}\n")
    assert main(["train", config]) == 0
    (stored,) = (tmp_path / "run" / "checkpoints").glob("step-*/config.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with parts.nothing_loaded():
        assert main(["train", str(stored), "steps=3"]) == 0
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == [1, 2, 3]
    os.rename(file, tmp_path / "moved.py")
    with parts.nothing_loaded():
        assert main(["train", str(stored), "steps=4"]) == 2
    assert f"plugins: {file}: no such file; put it there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.dist
def test_several_processes_load_them(tmp_path, shards):
    file = write(tmp_path / "own.py", OWN.format(key="mine_twice"))
    words = ["train", "debug.yaml", "steps=2", "trackers=none", "objectives={mine_twice: {}}", f"data.train={shards}"]
    command = [sys.executable, "-m", "mmclr.cli", *words, f"out={tmp_path}/run", "--processes", "2", "--plugins", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
