"""Work ahead of time: in order, and done again when a worker dies or hangs."""

import os
import time

import pytest

from mmclr.data.workers import run_ahead
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
