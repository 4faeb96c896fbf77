"""The calibrated probe: the card's outliers, borrowed Gaussians, scikit-learn, equal classes, and its command."""

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.calibration import Calibration, balance, borrowed, calibrate, root, shrunk
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.probes import linear_probe
from sklearn.covariance import ledoit_wolf
from torch.nn import functional as F

from mmclr.cli import main
from mmclr.statistics.lof import lof
from tests import bounds

HEADS, COUNTS = torch.tensor([(1, 0), (0, 1), (-1, 0)]).double(), torch.tensor([100, 50, 80])


def unit(n, d=8, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def long_tailed(tail=6, head=40, seed=0):
    """Two common classes, a rare one near the first, and some of the first called the second."""
    centres = F.normalize(torch.eye(8).double()[[0, 1, 0]] + torch.tensor([0, 0, 0.7]).double()[:, None] * unit(3)[[2]])
    y = torch.tensor([0] * head + [1] * head + [2] * tail)
    x = F.normalize(centres[y] + 0.1 * torch.randn(len(y), 8, generator=torch.Generator().manual_seed(seed)), dim=1)
    return x, y


def test_the_borrowed_gaussian_of_the_card():
    mean = torch.tensor([0.6, 0.6]).double()
    near = borrowed(mean, HEADS, COUNTS, 2)
    assert near.classes.tolist() == [0, 1]
    assert near.weights.tolist() == pytest.approx([0.666667, 0.333333], abs=bounds.printed(6))
    covariances = torch.tensor([[[0.2, 0], [0, 0.1]], [[0.1, 0.05], [0.05, 0.3]]]).double()
    own = 0.05 * torch.eye(2).double()
    found, covariance = calibrate(mean, own, HEADS[near.classes], covariances, near.weights, 0.5)
    assert found.tolist() == pytest.approx([0.633333, 0.466667], abs=bounds.printed(6))
    expected = [0.108333, 0.008333, 0.008333, 0.108333]
    assert covariance.flatten().tolist() == pytest.approx(expected, abs=bounds.printed(6))
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert torch.equal(calibrate(mean, own, HEADS[:2], covariances, near.weights, 0.0)[1], own)


def test_a_common_class_at_the_same_place_lends_all():
    assert borrowed(HEADS[1], HEADS, COUNTS, 3).weights.tolist() == pytest.approx([1, 0, 0], abs=1e-12)


def test_what_is_left_of_a_class_is_that_of_the_card():
    x = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1), (4, 4)]).double()
    inside = x[lof(x, 2) <= 1.5]
    assert inside.mean(0).tolist() == [0.5, 0.5]
    torch.testing.assert_close(shrunk(inside), torch.eye(2).double() / 3)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (5, 20), (2, 3), (200, 1)])
def test_covariances_are_shrunk_as_scikit_learn_shrinks_them(n, d):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n)).double() * torch.arange(1, d + 1)
    expected = torch.tensor(ledoit_wolf(x.numpy())[0]) * n / (n - 1)
    torch.testing.assert_close(shrunk(x), expected, rtol=1e-9, atol=1e-9)


def test_a_root_is_one_of_singular_matrices_too():
    x = unit(3, 6)
    covariance = x.T @ x
    torch.testing.assert_close(root(covariance) @ root(covariance).T, covariance)
    assert not shrunk(x[:1]).any()


def test_every_class_has_as_many_and_lies_where_it_should():
    x, y = long_tailed()
    wrong = y.clone()
    wrong[:8] = 1  # of the first class, called the second
    made = balance(x, wrong, Calibration(k=10))
    assert len(set(torch.bincount(made.y).tolist())) == 1
    torch.testing.assert_close(made.x.norm(dim=1), torch.ones(len(made.x)).double())
    assert not made.kept[:8].any()
    assert made.kept[8:].double().mean() > 0.9
    assert made.drawn == len(made.x) - int(made.kept.sum())
    drawn = made.x[-made.drawn :][made.y[-made.drawn :] == 2]
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    assert (torch.cdist(drawn.mean(0)[None], means)[0, [0, 2]] < torch.cdist(means[:1], means[2:])[0]).all()
    again = balance(x, wrong, Calibration(k=10))
    assert torch.equal(made.x, again.x)
    assert not torch.equal(made.x, balance(x, wrong, Calibration(k=10), seed=1).x)


def test_equal_classes_without_an_outlier_are_left_as_they_are():
    x, y = long_tailed(tail=40)
    made = balance(x, y, Calibration(cut=1e9))
    assert made.kept.all()
    assert made.drawn == 0
    torch.testing.assert_close(made.x, x)


@pytest.mark.parametrize("tail", [1, 2])
def test_a_class_of_one_image_borrows(tail):
    x, y = long_tailed(tail)
    made = balance(x, y, Calibration())
    assert made.x.isfinite().all()
    assert (made.y == 2).sum() == (made.y == 0).sum()


def test_a_probe_of_noisy_long_tailed_classes_gains_in_the_tail(model_folder, shards):
    """Its metrics say what was left out and drawn; the plain probe's are as they were."""
    embedder = Embedder.load(model_folder, device="cpu")
    data = ordinary(shards, caption="", label="json:colour")
    few = [i for i in range(40) if data.labels[i] > 1 or i < 12]
    train, test = data.subset(few, "rare"), data.subset(range(40, 60), "train")
    plain = linear_probe.linear_probe(embedder, train, test)
    found = linear_probe.linear_probe(embedder, train, test, calibration=Calibration(k=3, eps=1e-5))
    assert found.metrics["drawn"] > 0
    assert "drawn" not in plain.metrics
    assert found.metrics["weight_decay"] == plain.metrics["weight_decay"]
    recalls = [found.metrics[f"lp_{name}_recall"] for name in ("tail", "head")]
    counts = np.bincount(train.labels.numpy(), minlength=6)
    rare = counts < counts.mean()
    of_class = [rare[label] for label in test.labels.tolist()]
    share = len({c for c, r in zip(test.labels.tolist(), of_class) if r}) / len(set(test.labels.tolist()))
    mean = found.metrics["lp_mean_per_class_recall"]
    assert share * recalls[0] + (1 - share) * recalls[1] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["k"], "'k' is not an override"),
        (["neighbours=3"], "neighbours: unknown key"),
        (["a=2"], "a: input should be less than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, model_folder, shards, capsys):
    sets = ["--train", shards, "--data", shards, "--label", "json:colour", "--cache", "none"]
    assert main(["eval", "linear_probe", str(model_folder), *sets, "--calibrate", *words]) == 2
    assert message in capsys.readouterr().err
