"""The pool that other tests trust: results by rank, failures with their traceback, a fresh pool afterwards."""

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run

pytestmark = pytest.mark.dist


def whoami(offset):
    return dist.get_rank() + offset, dist.get_world_size()


def sum_of_ranks(x):
    dist.all_reduce(x)
    return x


def fail_on_last():
    if dist.get_rank() == 1:
        raise ValueError("rank one is out")
    return "fine"


def test_results_come_by_rank():
    assert run(2, whoami, 10) == [(10, 2), (11, 2)]


def test_ranks_really_talk():
    for total in run(2, sum_of_ranks, torch.ones(3)):
        assert total.tolist() == [2, 2, 2]


def test_a_rank_that_fails_is_named_and_the_next_call_works():
    with pytest.raises(AssertionError, match="rank 1 of 2 failed(.|\n)*rank one is out"):
        run(2, fail_on_last)
    assert run(2, whoami, 0) == [(0, 2), (1, 2)]
