"""Outlier factors and mixtures: the cards' worked numbers, scikit-learn, and what must change nothing."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from mmclr.statistics import mixture
from mmclr.statistics.lof import lof
from tests import bounds

CORNERS = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1), (4, 4)]).double()
LOSSES = torch.tensor([0.1, 0.2, 0.15, 0.25, 2.0, 2.2, 1.9]).double()


def rows(n=60, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_outlier_of_the_card():
    assert lof(CORNERS, 2).tolist() == pytest.approx([1, 1, 1, 1, 4.621320], abs=bounds.printed(6))


@pytest.mark.parametrize("k", [1, 5, 20, 1000])
def test_factors_equal_scikit_learns(k):
    peer = LocalOutlierFactor(n_neighbors=min(k, 59)).fit(rows().numpy())
    assert lof(rows(), k).numpy() == pytest.approx(-peer.negative_outlier_factor_, rel=1e-8)


def test_chunks_change_nothing(monkeypatch):
    whole = lof(rows(), 7)
    monkeypatch.setattr("mmclr.statistics.lof.CHUNK", 7)
    torch.testing.assert_close(lof(rows(), 7), whole)


def test_place_turn_and_size_do_not_count():
    turn = torch.linalg.qr(rows(5, 5, 1)).Q
    torch.testing.assert_close(lof(3 * rows() @ turn + 2, 6), lof(rows(), 6), rtol=1e-9, atol=0)


def test_copies_count_once():
    """Ten of one row make no dense spot, which would throw out its neighbours."""
    x = rows()
    copied = torch.cat([x, x[:1].repeat(10, 1)])
    found = lof(copied, 6)
    torch.testing.assert_close(found[:60], lof(x, 6))
    assert (found[60:] == found[0]).all()


def test_rows_without_another_are_in_place():
    assert lof(rows(1)).tolist() == [1]
    assert lof(rows(1).repeat(4, 1)).tolist() == [1] * 4
    assert lof(rows(0)).tolist() == []
    assert lof(rows(2)).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="k is at least 1"):
        lof(rows(), 0)


def test_the_mixture_of_the_card():
    z = (LOSSES - LOSSES.min()) / (LOSSES.max() - LOSSES.min())
    assert z.tolist() == pytest.approx([0, 0.047619, 0.023810, 0.071429, 0.904762, 1, 0.857143], abs=bounds.printed(6))
    found = mixture.fit(z, regularisation=5e-4)
    assert found.mean.tolist() == pytest.approx([0.035714, 0.920635], abs=bounds.printed(6))
    assert found.variance.tolist() == pytest.approx([0.001209, 0.004027], abs=bounds.printed(6))
    assert found.share.tolist() == pytest.approx([0.571429, 0.428571], abs=bounds.printed(6))
    assert (found.upper(z) > 0.95).tolist() == [False] * 4 + [True] * 3


def test_a_mixture_equals_scikit_learns():
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(0, 1, 300), generator.normal(3, 0.7, 200)])
    peer = GaussianMixture(2, reg_covar=5e-4, tol=1e-12, max_iter=5000, means_init=[[x.min()], [x.max()]]).fit(
        x[:, None]
    )
    found = mixture.fit(torch.tensor(x), tolerance=1e-13, steps=5000)
    assert found.mean.numpy() == pytest.approx(peer.means_[:, 0], abs=1e-4)
    assert found.variance.numpy() == pytest.approx(peer.covariances_[:, 0, 0], abs=1e-4)
    assert found.upper(torch.tensor(x)).numpy() == pytest.approx(peer.predict_proba(x[:, None])[:, 1], abs=1e-3)


def test_the_order_of_values_does_not_count():
    a, b = mixture.fit(LOSSES), mixture.fit(LOSSES.flip(0))
    for mine, other in zip(a, b):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, 1.0]])
def test_few_or_equal_values_are_finite(values):
    assert mixture.fit(torch.tensor(values)).upper(torch.tensor(values)).isfinite().all()


@pytest.mark.parametrize("values", [[1.0], [0.0, float("nan")]])
def test_what_is_no_two_groups_is_refused(values):
    with pytest.raises(ValueError, match="two values or more, all of them finite"):
        mixture.fit(torch.tensor(values))
