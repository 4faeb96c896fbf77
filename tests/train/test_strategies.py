"""Each way of sharing a step between processes against one process, through the real `accelerate launch`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import bounds
from tests.train import worker
from tests.train.runs import log

ROOT = Path(__file__).parent.parent.parent
STEPS = 10
TEACHER = ["objectives={cl2l: {hidden: 0}, pixpro: {hidden: 2, out: 8}, directpred: {}}", "ema=0.8", "steps=6",
           "data.views=2", "data.text_views=2"]  # fmt: skip
RUNS = {
    "whole": [],
    "micro": ["micro_batch=3"],
    "lean": ["activation_checkpointing=true"],
    "resumed": ["resume={one}/checkpoints/step-00000005"],
    "nan": ["steps=4"],
    "scaled": ["steps=4"],
    "short": ["steps=4"],
    "teacher": TEACHER,
    "teacher_micro": [*TEACHER, "micro_batch=3"],
}
# The softmax does not depend on it, so its gradient is rounding, which Adam makes as large as any other.
NOISE = "k_proj.bias"


def settings(shards, folder, names):
    sets = f"set: {{data: '{shards}', every_steps: 5}}, loss: {{suite: loss, data: '{shards}'}}"
    shared = [
        f"data.train={shards}",
        f"steps={STEPS}",
        "average.decay=0.9",
        "patch_dropout=0.25",
        "save.every_steps=5",
        "objectives={clip: {}, siglip: {weight: 0.5}}",
        "save.keep=0",
        "diagnose_every=5",
        f"evaluate={{{sets}}}",
    ]
    one = folder.parent / "one" / "whole"
    runs = {name: [f"out={folder / name}", *[s.replace("{one}", str(one)) for s in RUNS[name]]] for name in names}
    folder.mkdir(exist_ok=True)
    (folder / "task.json").write_text(json.dumps({"shared": shared, "runs": runs}))
    return str(folder / "task.json")


def start(config, task):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    env.pop("DS_ACCELERATOR", None)
    port = str(20000 + os.getpid() % 20000)
    launch = ["-W", "ignore", "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "2"]
    if config == "2_cpus":  # accelerate itself starts one process here: see mmclr/train/processes/launch.py
        launch = ["-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    else:
        launch += ["--config_file", str(ROOT / "configs" / "accelerate" / f"{config}.yaml")]
        launch += ["--main_process_port", port]
    command = [sys.executable, *launch, str(Path(__file__).parent / "worker.py"), task]
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture(scope="module")
def folder(shards, tmp_path_factory):
    """Return the folder with the runs of one process."""
    folder = tmp_path_factory.mktemp("strategies")
    worker.main(settings(shards, folder / "one", ["whole", "nan", "short", "teacher"]))
    return folder


STATE = ("model/model", "average/model", "state/optimizer", "state/objectives")


def compare(one, two, state=STATE):
    """Compare the logs of two runs, and their last checkpoints."""
    a, b = (log(run, "step", "loss", "clip", "scale", "grad_norm") for run in (one, two))
    assert len(b) > 2
    for row, other in zip(a[-len(b) :], b):
        assert other == pytest.approx(row, rel=bounds.bound(terms=512), nan_ok=True)
    for what in ("eval",) if "micro" in two.name else ("eval", "batch"):  # of micro-batches only the first is looked at
        a, b = (log(run, what) for run in (one, two))
        assert len(b) == len(a[-len(b) :])
        for (row,), (other,) in zip(a[-len(b) :], b):
            assert other == pytest.approx(row, rel=1e-4, abs=bounds.bound(terms=512))
    a, b = (sorted((run / "checkpoints").glob("step-*"))[-1] for run in (one, two))
    assert a.name == b.name
    for name in state:
        here, there = (load_file(x / f"{name}.safetensors") for x in (a, b))
        assert here.keys() == there.keys()
        for key, value in here.items():
            if not key.endswith(NOISE):
                other = there[key]
                assert other.shape == value.shape
                error = (other.double() - value.double()).norm() / value.double().norm().clamp(min=1e-8)
                assert error < 1e-4, (name, key, float(error))


CASES = [
    "2_cpus",
    "fsdp2",
    "zero2",
    pytest.param("zero1", marks=pytest.mark.slow),
    pytest.param("zero3", marks=pytest.mark.slow),
]


@pytest.mark.dist
@pytest.mark.parametrize("config", CASES)
def test_two_processes_equal_one(config, folder, shards):
    """Over 10 steps; in micro-batches; with recomputed blocks; resumed from one process's; past a NaN; scaled."""
    if config.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install mmclr[deepspeed])")
    names = ["whole", "micro", "lean", "resumed", "nan", "scaled", "teacher", "teacher_micro"]
    start(config, settings(shards, folder / config, names))
    for name in ("whole", "micro", "lean", "resumed"):
        compare(folder / "one" / "whole", folder / config / name)
    compare(folder / "one" / "nan", folder / config / "nan")
    for name in ("teacher", "teacher_micro"):
        compare(folder / "one" / "teacher", folder / config / name, (*STATE, "state/ema"))
    compare(folder / "one" / "short", folder / config / "scaled")
    assert len(list((folder / config / "nan" / "bad").glob("step-00000003-*"))) == 2
