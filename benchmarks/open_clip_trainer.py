"""open_clip 3.3.0's own trainer in a process of its own; it reads tar shards only with webdataset 0.2.86."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import peers

# Its checkpoint becomes a model folder as open_clip itself writes it.
CODE = """
import json, pathlib, sys, warnings
warnings.filterwarnings("ignore")
import torch, open_clip
from safetensors.torch import save_file
torch.set_num_threads(1)
config = pathlib.Path(sys.argv[1])
open_clip.add_model_config(config)
from open_clip_train.main import main
main(sys.argv[3:])
if sys.argv[2]:
    newest = max((config.parent / "logs").glob("*/checkpoints/epoch_*.pt"), key=lambda p: int(p.stem[6:]))
    state = torch.load(newest, map_location="cpu", weights_only=False)["state_dict"]
    out = pathlib.Path(sys.argv[2])
    state = {name.removeprefix("module."): tensor.contiguous() for name, tensor in state.items()}
    save_file(state, out / "open_clip_model.safetensors")
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    inside = {"model_cfg": json.loads(config.read_text()), "preprocess_cfg": preprocess}
    (out / "open_clip_config.json").write_text(json.dumps(inside))
"""
LINE = re.compile(r"\[\s*(\d+)/\d+ .*Batch \(t\): ([\d.]+).*?loss: ([\d.]+)", re.IGNORECASE)


def train(folder: Path, model: dict[str, Any], shards: str, keep: bool, **flags: Any) -> list[dict[str, float]]:
    """Train in a folder and return its log: samples, loss and samples_per_s every few steps.

    Flags are the trainer's, with _ for -. One thread. With `keep`, the folder is an open_clip model folder afterwards.
    """
    path = peers.install("webdataset-0.2.86", ("webdataset==0.2.86", "pandas", "python-dateutil", "six"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(model))
    settings = {
        "train_data": shards,
        "dataset_type": "webdataset",
        "workers": 1,
        "model": "bench",
        "precision": "fp32",
        "log_every_n_steps": 10,
        "logs": folder / "logs",
        "name": "run",
        "save_frequency": 100 if keep else 0,
        **flags,
    }
    arguments = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(folder / "bench.json"), str(folder) if keep else ""]
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "output.txt").open("w") as out:
        done = subprocess.run([*command, *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT)
    text = (folder / "output.txt").read_text()
    rows = [(int(seen), float(seconds), float(loss)) for seen, seconds, loss in LINE.findall(text)]
    if done.returncode or not rows:
        raise SystemExit(f"open_clip's trainer failed:\n{text[-4000:]}")
    batch = flags["batch_size"]
    return [{"samples": seen, "loss": loss, "samples_per_s": batch / seconds} for seen, seconds, loss in rows]
