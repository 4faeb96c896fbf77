"""Work ahead of time: in order, and done again when a worker dies or hangs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmclr.data.stream.workers import run_ahead
from mmclr.errors import UserError


def square(n):
    time.sleep(0.01 * (n % 3))
    return n * n


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_in_order(workers):
    assert list(run_ahead(square, range(20), workers)) == [n * n for n in range(20)]
    assert list(run_ahead(square, [], workers)) == []


class Once:
    """Does something bad to its process the first time that it is asked for `at`."""

    def __init__(self, folder, at, bad):
        self.mark, self.at, self.bad = folder / "done", at, bad

    def __call__(self, n):
        if n == self.at and not self.mark.exists():
            self.mark.touch()
            self.bad()
        return n


def test_silent_worker_is_replaced(tmp_path):
    restarts = []
    make = Once(tmp_path, 5, lambda: time.sleep(60))
    begin = time.monotonic()
    assert list(run_ahead(make, range(12), 2, 0.5, lambda: restarts.append(1))) == list(range(12))
    assert restarts == [1]
    assert time.monotonic() - begin < 50


def test_dead_worker_is_replaced(tmp_path):
    restarts = []
    make = Once(tmp_path, 5, lambda: os._exit(3))
    assert list(run_ahead(make, range(12), 2, 60, lambda: restarts.append(1))) == list(range(12))
    assert restarts == [1]


def die(n):
    os._exit(1)


def test_worker_that_always_dies_ends_the_run():
    with pytest.raises(UserError, match="a data worker died, 3 times in a row"):
        list(run_ahead(die, range(3), 1))


def complain(n):
    raise UserError(f"bad {n}")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_as_they_are(workers):
    with pytest.raises(UserError, match=r"^bad 0$"):
        list(run_ahead(complain, range(3), workers))


def test_left_early(tmp_path):
    results = run_ahead(square, range(10**9), 2)
    assert next(results) == 0
    results.close()
    assert list(results) == []


def test_workers_leave_when_their_parent_is_killed(shards):
    code = f"""
import multiprocessing, sys, time
from mmclr import parallel
from mmclr.config import load
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.data.samples.text import Tokenizer
tokenizer = Tokenizer.train(["a"] * 9, size=600)
loader = Loader(load(DataConfig, {{"train": {shards!r}, "batch": 12, "workers": 3}}), tokenizer, 24, 1)
batches = iter(loader)
next(batches)
print(*[p.pid for p in multiprocessing.active_children()], flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(pids) == 3
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError("workers outlive their parent")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
