"""What the report draws of an evaluation."""

import sys
import types

import numpy as np
import pytest
import torch
from mmclr.eval.figures import charts
from mmclr.eval.metrics.ranking import Relevance
from sklearn.decomposition import PCA


def unit(n, seed, shift=0.0):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += shift
    return torch.nn.functional.normalize(x, dim=1)


def test_scores_of_right_and_wrong_pairs():
    images = unit(50, 0)
    found = charts.score_sample(images, images, Relevance(torch.arange(50), torch.arange(50)))
    assert np.allclose(found["right"], 1, atol=1e-3)
    assert len(found["right"]) == 50
    assert max(found["wrong"]) < 0.999  # no right pair is drawn as a wrong one


def test_the_map_is_the_principal_plane():
    images, texts = unit(40, 1, 2.0), unit(30, 2, -2.0)
    found = charts.maps(images, texts, [f"i{n}" for n in range(40)], [f"t{n}" for n in range(30)])["plane"]
    peer = PCA(2, svd_solver="full").fit_transform(torch.cat([images, texts]).double())
    ours = np.array([p[:2] for p in found["image"] + found["text"]])
    for axis in (0, 1):
        sign = np.sign(ours[0, axis] * peer[0, axis])
        np.testing.assert_allclose(ours[:, axis], sign * peer[:, axis], atol=1e-4)
    assert found["text"][3][2] == "t3"


def test_neighbourhoods_are_drawn_where_umap_is_installed(monkeypatch):
    """With a stand-in, since umap-learn is no dependency: its rows come back in order, under their names."""

    class UMAP:
        def __init__(self, **settings):
            assert settings["metric"] == "cosine"
            assert settings["n_neighbors"] == 9  # fewer points than its default asks for

        def fit_transform(self, x):
            return x[:, :2] * 10

    monkeypatch.setitem(sys.modules, "umap", None)
    images, texts = unit(6, 1), unit(4, 2)
    assert charts.maps(images, texts, "abcdef", "ghij").keys() == {"plane"}
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    found = charts.maps(images, texts, "abcdef", "ghij")["umap"]
    assert [p[2] for p in found["image"] + found["text"]] == list("abcdefghij")
    assert found["text"][1][:2] == pytest.approx((10 * texts[1, :2]).tolist(), abs=1e-4)


def test_confusions_are_sorted_and_name_no_right_answer():
    labels, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 1, 0, 2])
    found = charts.confusions(predicted, labels, ["a", "b", "c"])
    assert found["pairs"] == [["a", "b", 2, 2 / 3], ["b", "a", 1, 0.5]]
    assert found["matrix"] == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    many = charts.confusions(predicted, labels, [str(i) for i in range(100)])
    assert "matrix" not in many
