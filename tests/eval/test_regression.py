"""Regression on features: scikit-learn's ridge, scipy's correlation, and rare targets told apart."""

import io
import json

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.probes import regression
from PIL import Image
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from mmclr.errors import UserError
from tests.data.made import write_tar


def rows(folder, name, values):
    """Write images whose brightness is their number."""
    members = []
    for at, value in enumerate(values):
        out = io.BytesIO()
        grey = int(255 * value) if isinstance(value, float) else 0
        Image.new("RGB", (24, 24), (grey, 255 - grey, at % 7)).save(out, "PNG")
        members += [(f"{at:03d}.png", out.getvalue()), (f"{at:03d}.json", json.dumps({"light": value}).encode())]
    write_tar(folder / name, members)
    return str(folder / name)


@pytest.fixture
def sets(tmp_path):
    draws = np.random.default_rng(0).random(90)
    train = [*draws[:60].tolist(), None, "dark"]  # two that are left out
    return [
        open_set(rows(tmp_path, name, v), target="json:light")
        for name, v in (("a.tar", train), ("b.tar", draws[60:].tolist()))
    ]


def test_the_numbers_are_those_of_scikit_learn_and_scipy(model_folder, sets):
    embedder = Embedder.load(model_folder, device="cpu")
    train, test = sets
    assert dict(train.skipped) == {"no_label": 1, "bad_field": 1}
    result = regression.regression(embedder, train, test, few=1, many=2)
    x, z = (embedder.images(data).images.double().numpy() for data in sets)
    peer = Ridge(alpha=result.metrics["penalty"] * len(x)).fit(x, train.targets.numpy())
    found, wanted = peer.predict(z), test.targets.numpy()
    assert result.metrics["mae"] == pytest.approx(np.abs(found - wanted).mean(), rel=1e-6)
    assert result.metrics["r2"] == pytest.approx(r2_score(wanted, found), rel=1e-6)
    assert result.metrics["spearman"] == pytest.approx(stats.spearmanr(found, wanted).statistic, abs=1e-9)
    assert result.metrics["spearman"] > 0.9  # brightness is easy
    assert result.metrics["mae"] < result.metrics["mae_of_median"]
    low, high = result.ci95["spearman"]
    assert low < result.metrics["spearman"] < high
    parts = [result.n.get(f"mae_{name}", 0) for name in ("few", "medium", "many")]
    assert sum(parts) == 30
    mixed = sum(n * (result.metrics[f"mae_{name}"] or 0) for n, name in zip(parts, ("few", "medium", "many")))
    assert mixed / 30 == pytest.approx(result.metrics["mae"])


def test_neighbours_are_counted_in_bins_as_by_a_histogram():
    draws = np.random.default_rng(1)
    known, wanted = draws.normal(size=500), draws.normal(size=300) * 1.5
    width = np.ptp(known) / 20
    counts, _ = np.histogram(known, known.min() + width * np.arange(22))
    place = np.floor((wanted - known.min()) / width).astype(int)
    expected = [counts[i] if 0 <= i < len(counts) else 0 for i in place]
    assert regression.neighbours(known, wanted, width).tolist() == expected
    assert regression.neighbours(np.array([3.0, 3.0]), np.array([3.0, 4.5])).tolist() == [2, 0]  # no range


def test_the_interval_of_the_correlation_is_that_of_samples_drawn_anew():
    draws = np.random.default_rng(2)
    x = draws.normal(size=(400, 300))
    y = 0.6 * x + 0.8 * draws.normal(size=x.shape)
    spread = np.std([stats.spearmanr(*pair).statistic for pair in zip(x, y)])
    stated = np.mean([regression.spearman(*pair).variance() ** 0.5 for pair in zip(x, y)])
    assert stated == pytest.approx(spread, rel=0.15)  # 400 draws know a spread to 4 %; ranks are not independent
    assert regression.spearman(np.zeros(5), np.arange(5.0)) is None


def test_the_penalty_is_one_that_a_held_out_fifth_likes():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(200, 150, generator=draws, dtype=torch.float64)
    y = x[:, 0] + 3 * torch.randn(200, generator=draws, dtype=torch.float64)
    z = torch.randn(2000, 150, generator=draws, dtype=torch.float64)
    errors = [
        float((regression.ridge(x, y, p)(z) - z[:, 0]).square().mean())
        for p in (1e-8, regression.choose_penalty(x, y, 0))
    ]
    assert errors[1] < errors[0] / 4  # noise of 3 on 150 features overfits without one


def test_sentences(model_folder, sets, shards, tmp_path):
    embedder = Embedder.load(model_folder, device="cpu")
    with pytest.raises(UserError, match="has no targets; name a number with --target"):
        regression.regression(embedder, open_set(shards), sets[1])
    with pytest.raises(UserError, match="0 < --few <= --many"):
        regression.regression(embedder, *sets, few=5, many=2)
    with pytest.raises(UserError, match="no sample has json:age"):
        open_set(shards, target="json:age")
    with pytest.raises(UserError, match="json:colour is 'red', not a finite number"):
        open_set(shards, target="json:colour")
    with pytest.raises(UserError, match="named for two things"):
        open_set(shards, target="txt", caption="txt")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "set.csv").write_text("filepath,title\na.png,a\n")
    with pytest.raises(UserError, match="is read from shards"):
        open_set(str(tmp_path / "set.csv"), target="json:age")
