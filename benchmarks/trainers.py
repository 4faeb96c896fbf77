"""Whole trainers side by side: open_clip's own and ours, on the same shards, in processes of their own."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip_trainer
import peers
from sides import LR, OURS, THEIRS

SHARDS = str(peers.PICTO / "train-{00000..00009}.tar")
BATCH, FEW, MANY = 64, 4, 16  # steps; the difference of two runs leaves out what happens once


def end_to_end(rounds: int) -> dict[str, Any]:
    """Compare samples a CPU second, of the trainer and its data worker together, in turns."""
    if not Path(SHARDS.replace("{00000..00009}", "00000")).is_file():
        print("  no pictograms beside the project: not measured")
        return {"end_to_end_speedup": None}
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(max(1, rounds // 2)):
            theirs, ours = (rate(train, Path(folder) / f"{train.__name__}-{number}") for train in (open_clip, mmclr))
            print(f"  open_clip {theirs:.1f} samples/s  mmclr {ours:.1f} samples/s", flush=True)
            ratios.append(ours / theirs)
    return {"end_to_end_speedup": statistics.median(ratios)}


def rate(train: Callable[[Path, int], None], folder: Path) -> float:
    """Return samples a CPU second between step FEW and step MANY."""
    seconds = []
    for steps in (FEW, MANY):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        train(folder / str(steps), steps)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return BATCH * (MANY - FEW) / (seconds[1] - seconds[0])


def open_clip(folder: Path, steps: int) -> None:
    """Run open_clip's trainer."""
    flags = {"train_num_samples": BATCH * steps, "batch_size": BATCH, "epochs": 1, "lr": LR, "warmup": 10}
    open_clip_trainer.train(folder, THEIRS, SHARDS, keep=False, **flags)


def mmclr(folder: Path, steps: int) -> None:
    """Run `mmclr train`."""
    model = json.dumps({**OURS, "preset": None})
    settings = [
        f"data.train={SHARDS}",
        f"out={folder}",
        f"model={model}",
        f"data.batch={BATCH}",
        "data.workers=1",
        f"steps={steps}",
        f"optim.lr={LR}",
        "optim.warmup=10",
        "log_every=10",
        "precision=float32",
        "diagnose_every=0",
        "trackers=none",
        "save.every_minutes=0",
    ]
    command = [sys.executable, "-m", "mmclr.train", "base.yaml", "epochs=null", *settings]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
