"""Geometry: the worked numbers of the papers' cards, loops, scikit-learn, and limits that are known."""

import math

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics import logistic
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.geometry import geometry, loss
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from tests import bounds

U = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
V = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [1, 0]])
F3_U = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1]])
F3_V = torch.tensor([[0.8, 0.6], [0, 1], [-0.28, 0.96]])


def unit(n, d, seed):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_worked_numbers_of_contrastive_gap():
    found = geometry.between(U, V, 2.0)
    assert geometry.uniformity(U).mean == pytest.approx(-1.499775, abs=bounds.bound(terms=512))
    assert geometry.uniformity(V).mean == pytest.approx(-1.855112, abs=bounds.bound(terms=512))
    assert found["cross_uniformity"].mean == pytest.approx(-1.035566, abs=bounds.bound(terms=512))
    assert found["alignment"].mean == pytest.approx(0.533333, abs=bounds.bound(terms=512))
    assert found["centroid_distance"] == pytest.approx(0.188562, abs=bounds.bound(terms=512))
    assert found["centroid_cosine"] == pytest.approx(0.999838, abs=bounds.bound(terms=512))


def test_worked_numbers_of_temperature_behaviour():
    rows = torch.cat([e for e, _ in geometry._entropies(F3_U, F3_V, 2.0)])
    torch.testing.assert_close(
        rows, torch.tensor([0.655432, 0.632317, 0.619121]).double(), atol=bounds.bound(terms=512), rtol=0
    )
    assert geometry.between(F3_U, F3_V, 2.0)["effective_negatives_of_image"].mean == pytest.approx(1.888412, abs=1e-4)
    assert geometry.tolerance(F3_U, torch.tensor([0, 1, 1])) == pytest.approx(0.8)


@pytest.mark.parametrize("tile", [7, 1024])
def test_streams_equal_loops(tile, monkeypatch):
    monkeypatch.setattr(geometry, "TILE", tile)
    x, y = unit(40, 6, 0), unit(40, 6, 1)
    inside = [np.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(40) for j in range(40) if i != j]
    across = [np.exp(-2 * float((x[i] - y[j]).square().sum())) for i in range(40) for j in range(40) if i != j]
    assert geometry.uniformity(x).mean == pytest.approx(np.log(np.mean(inside)), abs=bounds.bound(terms=16))
    assert geometry.cross_uniformity(x, y).mean == pytest.approx(np.log(np.mean(across)), abs=bounds.bound(terms=16))
    found = geometry.between(x, y, 5.0)
    scores = (x @ y.T).numpy()
    off = ~np.eye(40, dtype=bool)
    assert found["unmatched_cosine"] == pytest.approx(scores[off].mean(), abs=bounds.bound(terms=16))
    margins = [scores[i, i] - max(scores[i, j] for j in range(40) if j != i) for i in range(40)]
    assert found["margin"].mean == pytest.approx(np.mean(margins), abs=bounds.bound(terms=16))


def test_interval_of_uniformity_holds_the_truth():
    truth = geometry.uniformity(unit(4_000, 3, 99)).mean
    held = 0
    for seed in range(200):
        low, high = geometry.uniformity(unit(100, 3, seed)).interval()
        held += low <= truth <= high
    assert held / 200 > 0.9


def test_known_limits():
    point = torch.ones(10, 4) / 2
    assert geometry.uniformity(point).mean == pytest.approx(0, abs=bounds.bound(terms=16))
    apart = torch.nn.functional.normalize(torch.randn(200, 8) * 0.1 + torch.eye(8)[0], dim=1)
    assert geometry.separability(apart, -apart) == 1
    assert 0.3 < geometry.separability(unit(500, 8, 3), unit(500, 8, 4)) < 0.7
    assert geometry.covariance_distance(apart, apart) == pytest.approx(0, abs=bounds.bound(terms=16))
    shifted = apart + torch.tensor([3.0] + [0.0] * 7)
    assert geometry.covariance_distance(apart, shifted) == pytest.approx(0, abs=1e-3)
    wide = geometry.cloud(unit(5000, 8, 5), "x")
    assert wide["x_effective_rank"] == pytest.approx(8, abs=0.05)
    assert wide["x_rank"] == 8
    flat = torch.nn.functional.normalize(torch.cat([unit(500, 2, 6), torch.zeros(500, 6)], 1), dim=1)
    assert geometry.cloud(flat, "x")["x_effective_rank"] == pytest.approx(2, abs=0.01)
    hot, cold = (geometry.between(U, V, scale) for scale in (1e-6, 1e6))
    assert hot["effective_negatives_of_image"].mean == pytest.approx(2, abs=1e-4)
    assert cold["effective_negatives_of_image"].mean == pytest.approx(1, abs=1e-4)


def test_covariance_distance_of_two_gaussians():
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(rng.normal(size=(200_000, 2)) * s) for s in ((1.0, 2.0), (3.0, 0.5)))
    assert geometry.covariance_distance(a, b) == pytest.approx(np.hypot(2, 1.5), rel=0.01)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
def test_logistic_regression_equals_scikit_learn(classes, penalty):
    rng = np.random.default_rng(1)
    y = rng.integers(0, classes, 300)
    x = rng.normal(size=(300, 6)) + np.eye(classes, 6)[y]
    ours = logistic.fit(torch.tensor(x), torch.tensor(y), classes, penalty=penalty)
    peer = LogisticRegression(C=1 / penalty, max_iter=10_000, tol=1e-10).fit(x, y)
    shares = ours(torch.tensor(x)).softmax(1).numpy()
    np.testing.assert_allclose(shares, peer.predict_proba(x), atol=bounds.bound(terms=2048))


def test_the_suite_runs_on_a_set(shards, model_folder):
    embedder = Embedder.load(model_folder, device="cpu")
    result = geometry.run(embedder, ordinary(shards, label="json:colour"))
    assert {"alignment", "image_uniformity", "text_effective_rank", "linear_separability", "tolerance"} <= set(
        result.metrics
    )
    assert result.ci95["alignment"][0] < result.metrics["alignment"] < result.ci95["alignment"][1]
    assert "linear_separability" not in result.ci95
    both = open_set(shards, caption="txt", label="json:colour")
    assert geometry.run(embedder, both).metrics == result.metrics
    images = geometry.run(embedder, ordinary(shards, caption="", label="json:colour"))
    assert "alignment" not in images.metrics


def test_one_pair_and_samples_without_a_class_are_no_infinity():
    x, y = unit(3, 4, 0), unit(3, 4, 1)
    found = geometry.cloud(x[:1], "image") | geometry.between(x[:1], y[:1], 14.3)
    values = [v.mean if isinstance(v, Measurement) else v for v in found.values()]
    assert all(v is None or math.isfinite(v) for v in values), found
    assert found["margin"] is None
    labels = torch.tensor([1, -1, -1])
    assert geometry.tolerance(x, labels) is None


def test_confidence_is_that_of_a_softmax_written_out():
    """Pairs in groups of 8: probabilities in numpy, and a model whose scale is too large is too sure."""
    draws = torch.Generator().manual_seed(3)
    x, y = (F.normalize(torch.randn(20, 6, generator=draws), dim=1) for _ in "xy")
    y = F.normalize(x + y, dim=1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    groups = [order[:8], order[8:16], [*order[16:], *order[:4]]]
    sure, right = [], []
    for number, group in enumerate(groups):
        s = 9.0 * x[group].double().numpy() @ y[group].double().numpy().T
        for row in range(min(8, 20 - 8 * number)):
            each = [np.exp(v - v.max()) / np.exp(v - v.max()).sum() for v in (s[row], s[:, row])]
            sure.append(np.mean([p.max() for p in each]))
            right.append(np.mean([p.argmax() == row for p in each]))
    found = loss.confidence(x, y, 9.0, 7)
    assert found["confidence"].mean == pytest.approx(np.mean(sure))
    assert found["accuracy"].mean == pytest.approx(np.mean(right))
    assert found["overconfidence"].mean == pytest.approx(np.mean(sure) - np.mean(right))
    assert loss.confidence(x, y, 90.0, 7)["overconfidence"].mean > found["overconfidence"].mean
    assert loss.confidence(x, x.roll(1, 0) * 0, 9.0, 7)["accuracy"].mean == pytest.approx(1 / 8)  # all are equal


def test_the_variance_of_unmatched_cosines_is_that_of_all_of_them():
    x, y = unit(30, 5, 1), unit(30, 5, 2)
    every = (x.double() @ y.double().T)[~torch.eye(30, dtype=torch.bool)].numpy()
    found = geometry.between(x, y, 2.0)
    assert found["unmatched_cosine"] == pytest.approx(every.mean(), abs=bounds.bound(terms=512))
    assert found["unmatched_variance"] == pytest.approx(every.var(), abs=bounds.bound(terms=512))
