"""The number of threads: found on a copy of the run's step, part of the run ever after; and threads that sleep."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mmclr.config import load
from mmclr.runtime import spinning
from mmclr.train.checkpoints import folder
from mmclr.train.processes import join, threads
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer
from tests.train.runs import log, run_here


@pytest.fixture
def free(monkeypatch):
    """Two threads and cores, as if nobody had said how many are to be used."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in spinning.OURS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def same(one, two):
    for name in ("model/model", "average/model", "state/optimizer", "state/objectives"):
        ours, theirs = (load_file(x / f"{name}.safetensors") for x in (one, two))
        assert all(value.equal(theirs[key]) for key, value in ours.items()), name


@pytest.mark.parametrize("chosen", [1, 2])
def test_a_run_that_chose_is_one_that_was_told(free, chosen, settings, tmp_path, monkeypatch):
    """Bit for bit, trials and all; so is one that chose, stopped, and would choose otherwise when it goes on."""
    monkeypatch.setattr(threads, "fastest", lambda tried: chosen)
    run_here([*settings, "steps=5", f"out={tmp_path / 'auto'}", "optim.schedule=constant", "optim.warmup=0"])
    monkeypatch.setattr(threads, "fastest", lambda tried: 3 - chosen)
    rest = ["optim.schedule=constant", "optim.warmup=0"]
    auto = run_here([*settings, f"out={tmp_path / 'auto'}", *rest])
    told = run_here([*settings, f"out={tmp_path / 'told'}", f"threads={chosen}", *rest])
    same(auto, told)
    assert log(tmp_path / "auto", "step", "loss", "threads") == log(tmp_path / "told", "step", "loss", "threads")
    assert {row[0] for row in log(tmp_path / "auto", "threads")} == {chosen}
    assert folder.read_position(auto)["threads"] == chosen
    assert torch.get_num_threads() == 2  # as it was found


def test_trials_leave_no_trace(free, settings):
    with join.joined(1.0) as accelerator:
        run = load(RunConfig, "debug.yaml", [*settings, "objectives={clip: {}, isogclr: {}}"])
        t = Trainer(run, accelerator)
        before = {name: value.clone() for name, value in t.step.state_dict().items()}
        random, place = torch.get_rng_state(), t.loader.state_dict()
        tried = threads.try_out(t, [2, 1])
        assert tried.keys() == {1, 2}
        assert all(seconds > 0 for seconds in tried.values())
        assert torch.equal(torch.get_rng_state(), random)
        assert t.loader.state_dict() == place
        assert all(value.equal(before[name]) for name, value in t.step.state_dict().items())
        assert all(p.grad is None for p in t.step.parameters())
        assert not t.strategy.optimizer.state


def test_the_fastest_is_chosen_and_the_hopeless_are_not_tried():
    cost = {8: 1.0, 4: 1.0, 2: 3.0, 1: 9.0}
    seen = []

    def step():
        seen.append(torch.get_num_threads())
        return cost[seen[-1]]

    before = torch.get_num_threads()
    tried = threads.timed(step, threads.candidates(8))
    assert torch.get_num_threads() == before
    assert 1 not in seen
    assert seen.count(2) == 1
    assert seen.count(8) == seen.count(4) == threads.ROUNDS
    assert threads.fastest(tried) == 4  # of equal ones the smaller, which leaves more to others


def test_one_slow_step_decides_nothing():
    took = iter([1.0, 2.0] + [1.0, 0.5] * (threads.ROUNDS - 1))
    assert threads.fastest(threads.timed(lambda: next(took), [2, 1])) == 1


@pytest.mark.parametrize(
    ("environment", "workers", "most"),
    [
        ({"OMP_WAIT_POLICY": "passive"}, 2, 16),
        ({"GOMP_SPINCOUNT": "0"}, 2, 16),
        ({}, 0, 14),  # a core for the loader's thread, and one for who else there is
        ({}, 4, 11),
        ({}, 40, 1),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 2, 13),
        ({"GOMP_SPINCOUNT": "300000", "OMP_WAIT_POLICY": "PASSIVE"}, 2, 13),
    ],
)
def test_where_threads_spin_cores_are_left_to_others(environment, workers, most, monkeypatch):
    for name in spinning.OURS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "cores", lambda: 16)
    assert threads.limit(workers) == most


SEEN = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(*[os.environ.get(n) for n in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")], flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""
COMMANDS = {
    "mmclr": "from mmclr.cli import main; main(['train', '--help'])",
    "eval": "from mmclr.cli import main; main(['eval', 'retrieval', '--help'])",
    "launched": "sys.argv = ['x', '--help']; runpy.run_module('mmclr.train', run_name='__main__')",
    "python": "from mmclr.train.trainer import train",
}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "PASSIVE 0 0"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7 None"),
        ({"KMP_BLOCKTIME": "1"}, "PASSIVE 0 1"),  # accelerate sets it
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_policy_stands_before_torch_is_imported(command, given, wanted):
    env = {name: value for name, value in os.environ.items() if name not in spinning.OURS} | given
    done = subprocess.run([sys.executable, "-c", SEEN + COMMANDS[command]], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == wanted, done.stderr


def test_it_is_too_late_once_torch_is_there(monkeypatch):
    for name in spinning.OURS:
        monkeypatch.delenv(name, raising=False)
    spinning.let_threads_sleep()
    assert spinning.threads_spin()
