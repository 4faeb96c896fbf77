"""Separability: the card's scores, the objective's value, classes, and what cannot be measured."""

import math

import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.geometry.separability import nearest_others, run, separability
from torch.nn import functional as F

from mmclr.errors import UserError
from mmclr.losses import build
from tests import bounds


def unit(n, d=8, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_the_objective_is_minus_its_logarithm():
    """Of the same vectors, half of them called captions."""
    x, label = unit(40), torch.arange(20) % 3
    value = build("icnn", {"k": 3})(image=x[:20], text=x[20:], label=label, weights=torch.ones(20).double())
    found, classes = separability(x, label.repeat(2), 3)
    assert math.log(found["icnn"]) == pytest.approx(-value.item(), rel=bounds.bound(torch.float64, 512))
    assert {c: n for c, (_, n) in classes.items()} == {0: 14, 1: 14, 2: 12}
    weighted = sum(n * value for value, n in classes.values()) / 40
    assert weighted == pytest.approx(found["icnn"], abs=0.02)  # not equal: means are over those that have such


def test_clusters_are_apart_and_noise_is_not():
    labels = torch.arange(60) % 4
    apart, _ = separability(F.normalize(10 * torch.eye(8).double()[labels] + unit(60), dim=1), labels, 4)
    mixed, _ = separability(unit(60), labels, 4)
    assert mixed["icnn"] < 0.6 < 0.9 < apart["icnn"] <= 1
    assert apart["icnn_share"] == 1


def test_equal_vectors_are_each_others_neighbours():
    """An image is not its own, even where more are equal than there are places."""
    x = torch.cat([unit(1).repeat(6, 1), unit(3, seed=1)])
    distances, index = nearest_others(x, 2)
    assert (index != torch.arange(9)[:, None]).all()
    assert (index[:6] < 6).all()
    assert distances[0].tolist() == pytest.approx([1e-3, 1e-3])


def test_a_set_is_measured_and_its_worst_classes_are_named(model_folder, shards):
    embedder = Embedder.load(model_folder, device="cpu")
    data = ordinary(shards, caption="", label="json:colour")
    result = run(embedder, data, k=4)
    assert 0 < result.metrics["icnn_worst_class"] < result.metrics["icnn_mean_per_class"] < 1
    assert result.metrics["icnn_worst_class"] < result.metrics["icnn"]
    rows = result.examples["separability"]
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    assert sum(row[1] for row in rows) == 60
    assert f"least separate: {rows[0][0]} {rows[0][2]:.3f}" in result.notes[0]


def test_what_cannot_be_measured_is_told(model_folder, shards):
    embedder = Embedder.load(model_folder, device="cpu")
    data = ordinary(shards, caption="", label="json:colour")
    one = data.subset((data.labels == data.labels[0]).nonzero()[:, 0].tolist(), "other")
    with pytest.raises(UserError, match="all of one class; separability takes two classes"):
        run(embedder, one)
    with pytest.raises(UserError, match="--k is at least 1"):
        run(embedder, data, k=0)
    with pytest.raises(UserError, match="the set has no classes; name a label"):
        run(embedder, ordinary(shards, caption="txt"))
