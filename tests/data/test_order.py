"""The order visits every sample once per epoch, from any place, and mixtures keep their shares."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmclr.config import ConfigError
from mmclr.data.random import key, uniform
from mmclr.data.stream.mixture import Mixture
from mmclr.data.stream.permutation import epoch_order, permute
from tests.data.streams import shuffled


def keys(n, *parts):
    return key(np.zeros(n, np.int64), *parts)


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 6), st.integers(0, 2**40))
def test_every_sample_once(n, block, window, seed):
    order = epoch_order(np.arange(n), n, keys(n, seed), block, window)
    assert sorted(order.tolist()) == list(range(n))


@given(st.integers(1, 300), st.integers(0, 2**62))
def test_one_by_one_equals_all_at_once(n, seed):
    together = permute(np.arange(n), n, keys(n, seed))
    alone = [int(permute(np.array([i]), n, keys(1, seed))[0]) for i in range(n)]
    assert together.tolist() == alone


def test_shuffle_is_uniform():
    """Where sample 0 lands, and which of two comes first, over many keys: chi-squared at 5 standard deviations."""
    n, trials = 10, 20_000
    seeds = key(np.arange(trials))
    places = permute(np.zeros(trials, np.int64), n, seeds)
    counts = np.bincount(places, minlength=n)
    chi = ((counts - trials / n) ** 2 / (trials / n)).sum()
    assert chi < (n - 1) + 5 * np.sqrt(2 * (n - 1))
    first = (permute(np.full(trials, 1), n, seeds) < permute(np.full(trials, 2), n, seeds)).mean()
    assert abs(first - 0.5) < 5 * 0.5 / np.sqrt(trials)


def test_neighbours_are_scattered():
    n = 100_000
    order = permute(np.arange(n), n, keys(n, 3))
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(n)


def test_blocks_stay_together_and_mix():
    n, block, window = 1003, 16, 4
    order = epoch_order(np.arange(n), n, keys(n, 5), block, window)
    span = block * window
    for start in range(0, n - span, span):  # reaches into two windows, of blocks that may straddle two of these
        assert len(set(order[start : start + span] // block)) <= 2 * (2 * window + 1)
    assert (np.abs(np.diff(order)) > 1).mean() > 0.5  # but not one after the other
    other = epoch_order(np.arange(n), n, keys(n, 6), block, window)
    assert (order != other).mean() > 0.9


def test_epochs_differ_and_seed_decides():
    order = shuffled([100], [1.0], seed=7)
    sample, epoch = order.at(np.arange(250))
    assert epoch.tolist() == [0] * 100 + [1] * 100 + [2] * 50
    assert sorted(sample[:100]) == sorted(sample[100:200]) == list(range(100))
    assert sample[:100].tolist() != sample[100:200].tolist()
    assert sample.tolist() == shuffled([100], [1.0], seed=7).at(np.arange(250))[0].tolist()
    assert sample.tolist() != shuffled([100], [1.0], seed=8).at(np.arange(250))[0].tolist()


def test_huge_order_needs_no_memory():
    order = shuffled([10**9], [1.0], seed=0)
    order.at(np.arange(1024))
    tracemalloc.start()
    sample, _ = order.at(np.arange(10**8, 10**8 + 1024))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(set(sample.tolist())) == 1024
    assert 0 <= sample.min() <= sample.max() < 10**9


def test_one_two_five_in_every_window():
    counts = Mixture([1, 2, 5]).counts(np.arange(20_000))
    shares = np.array([125, 250, 625])
    assert np.abs(counts[1000:] - counts[:-1000] - shares).max() <= 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_less_than_one_from_its_share(weights):
    mixture = Mixture(weights)
    positions = np.arange(2 * mixture.period + 1)
    counts = mixture.counts(positions)
    assert np.abs(counts - positions[:, None] * np.array(mixture.shares)).max() < 1
    np.testing.assert_allclose(mixture.shares, np.array(weights) / sum(weights), atol=1e-4)
    source, before = mixture.deal(positions)
    assert before.tolist() == counts[positions, source].tolist()
    assert counts.sum(1).tolist() == positions.tolist()


def test_awkward_weights_are_rounded():
    weights = [np.pi, np.e, 1.0]
    mixture = Mixture(weights)
    assert mixture.period <= 10_000
    np.testing.assert_allclose(mixture.shares, np.array(weights) / sum(weights), atol=1e-4)
    with pytest.raises(ConfigError, match="weight"):
        Mixture([1e-9, 1])


def test_each_source_has_epochs_of_its_own():
    order = shuffled([10, 40], [1.0, 1.0], seed=0)
    sample, epoch = order.at(np.arange(80))
    small = sample < 10
    assert small.sum() == 40
    assert np.bincount(sample[small]).tolist() == [4] * 10
    assert sorted(sample[~small]) == list(range(10, 50))
    assert epoch[small].max() == 3
    assert epoch[~small].max() == 0


def test_uniform_numbers_are_uniform():
    draws = uniform(key(np.arange(20_000)), 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(0) - 0.5).max() < 5 / np.sqrt(12 * 20_000)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 5 / np.sqrt(20_000)
