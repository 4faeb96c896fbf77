"""Intervals: against statistics' textbook values, and by how often they hold the truth in 1,000 evaluations."""

import numpy as np
import pytest
import torch
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.scores import mean_average_precision
from scipy import stats

ROUNDS = 1000


def coverage(draw):
    """Share of simulated evaluations whose interval holds the known truth."""
    held = 0
    for _ in range(ROUNDS):
        measurement, truth = draw()
        low, high = measurement.interval()
        held += low <= truth <= high
    return held / ROUNDS


def hits(rng, p, size):
    return (rng.random(size) < p).astype(float)


@pytest.mark.parametrize(("hit", "n"), [(0, 10), (3, 10), (27, 100), (100, 100)])
def test_a_proportion_has_wilsons_interval(hit, n):
    values = np.r_[np.ones(hit), np.zeros(n - hit)]
    expected = stats.binomtest(hit, n).proportion_ci(method="wilson")
    assert Measurement(values).interval() == pytest.approx(tuple(expected), abs=1e-9)


def test_a_mean_that_is_no_share_has_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 500)
    expected = stats.norm.interval(0.95, values.mean(), values.std() / 500**0.5)
    assert Measurement(values, share=False).interval() == pytest.approx(expected)


@pytest.mark.parametrize(("p", "n"), [(0.5, 500), (0.9, 200), (0.05, 300), (0.27, 955)])
def test_coverage_of_accuracy(p, n):
    rng = np.random.default_rng(1)
    assert 0.93 <= coverage(lambda: (Measurement(hits(rng, p, n)), p)) <= 0.97


@pytest.mark.parametrize(("images", "spread"), [(30, 2.0), (100, 1.0), (200, 0.3)])
def test_coverage_with_five_captions_of_an_image(images, spread):
    """Captions of one image succeed or fail together: without clusters the interval is far too short."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(images), 5)

    def draw():
        return hits(rng, rng.beta(spread, 2 * spread, images)[:, None], (images, 5)).ravel(), 1 / 3

    clustered = coverage(lambda: ((d := draw()) and Measurement(d[0], clusters=clusters), d[1]))
    assert 0.93 <= clustered <= 0.97
    assert coverage(lambda: ((d := draw()) and Measurement(d[0]), d[1])) < 0.9


@pytest.mark.parametrize("sizes", [(5, 20), (1, 100), (50, 200)])
def test_coverage_of_the_mean_over_classes(sizes):
    rng = np.random.default_rng(3)
    recall = rng.beta(1, 1, 40)

    def draw():
        labels = np.repeat(np.arange(40), rng.integers(sizes[0], sizes[1] + 1, 40))
        return Measurement(hits(rng, recall[labels], len(labels)), strata=labels), recall.mean()

    assert 0.93 <= coverage(draw) <= 0.97


def test_coverage_of_mean_average_precision():
    rng = np.random.default_rng(4)
    share, signal = np.array([0.1, 0.3, 0.5]), np.array([1.0, 0.5, 2.0])

    def sample(n):
        targets = rng.random((n, 3)) < share
        scores = rng.normal(size=(n, 3)) + signal * targets + 0.5 * rng.normal(size=(n, 1))
        return mean_average_precision(torch.as_tensor(scores), torch.as_tensor(targets))

    truth = sample(400_000).mean
    assert 0.93 <= coverage(lambda: (sample(400), truth)) <= 0.97


def test_the_fewest_units_have_no_interval():
    assert Measurement(np.array([1.0])).interval() is None
    assert Measurement(np.array([])).mean is None
    assert Measurement(np.ones(5), clusters=np.zeros(5)).interval() is None
