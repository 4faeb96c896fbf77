"""Runs in processes of their own."""

import json
import math
import os
import subprocess
import sys

from mmclr.config import load
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train


def start(settings, launch=(), **kwargs):
    """Start a run in processes of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    port = ["--main_process_port", str(20000 + os.getpid() % 20000)]
    own = [*launch] if launch[:1] == ["--processes"] else []  # by ourselves; else by accelerate
    how = ["-m", "accelerate.commands.accelerate_cli", "launch", *launch, *port] if launch and not own else []
    command = [sys.executable, *how, "-m", "mmclr.train", *own, "debug.yaml", *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, **kwargs)


def finish(process):
    """Wait for a run to end well; return what it said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def log(folder, *names):
    """Return the named columns of the rows of a run's log that have them."""
    rows = [json.loads(line, object_hook=_numbers) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [tuple(row[name] for name in names) for row in rows if all(name in row for name in names)]


def _numbers(row):
    """Return a row in which what was not finite, null in JSON, is NaN again."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def run_here(settings):
    """Train in this process; return the newest checkpoint."""
    return train(load(RunConfig, "debug.yaml", settings), quiet=True)
