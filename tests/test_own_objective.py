"""The package in examples/own_objective: installed without network, it trains, goes on and is evaluated elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import parts

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "own_objective"
COMMANDS = """
import sys
from mmclr.cli import main
for words in {commands!r}:
    if status := main(words):
        sys.exit(status)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the folder that the package is installed in."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    words = [*pip, "--no-build-isolation", "--target", str(folder), str(EXAMPLE)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(installed, cwd, *commands):
    """Run commands in a process of its own that sees the package and this checkout."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    code = COMMANDS.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trains_goes_on_and_is_evaluated(installed, tmp_path):
    shards, out = parts.shard(tmp_path / "0.tar"), tmp_path / "run"
    (tmp_path / "elsewhere").mkdir()
    train = ["train", str(EXAMPLE / "train.yaml"), f"data.train={shards}", f"out={out}", "trackers=none"]
    said = run(installed, tmp_path, ["papers", "huber_alignment"], [*train, "steps=3"])
    assert "From: own_objective" in said
    assert "delta: 0.5  # distance from which the pull is constant, > 0" in said
    evaluate = ["eval", "retrieval", str(out), "--data", shards, "--out", str(tmp_path / "result.json")]
    run(installed, tmp_path / "elsewhere", train, evaluate)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(line["huber_alignment"] > 0 for line in steps)
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]


def test_keeps_the_laws(installed, tmp_path):
    said = run(installed, tmp_path, ["check", "own_objective", "--quick"])
    assert said.splitlines()[-1].endswith("laws are kept (2 laws were left out)")
