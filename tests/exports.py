"""Checkpoints for the tests of exports: small, random, with what a run leaves beside them."""

import json
import subprocess
import sys

import torch

from mmclr.config import check
from mmclr.data.text import Tokenizer
from mmclr.models.clip import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer

ICONS = {"preset": "icons", "image": {"layers": 2, "mean": [0.5, 0.4, 0.3]}}


def tokenizer(context=16):
    return Tokenizer.train(["cloud off", "music note"] * 10, 560, context)


def write_checkpoint(folder, tree=None, bias=True, names=("model", "average"), t=None):
    """Write a run with one checkpoint, whose averaged and last weights differ; return the run's folder."""
    t = t or tokenizer()
    step = folder / "checkpoints" / "step-00000001"
    config = with_tokenizer(check(ModelConfig, tree or ICONS), t.vocab_size, t.bos_id, t.eos_id, t.pad_id)
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = TwoTower(config, bias=bias)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))  # biases are zero at the start
        model.save(step / name)
        t.save(step / name)
    (step / "position.json").write_text(json.dumps({"step": 1}))
    return folder


def alone(code, *args, cwd):
    """Run Python code in a fresh process in which importing mmclr is an error; return the JSON that it prints last."""
    code = f"import json, sys\nsys.modules['mmclr'] = None\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
