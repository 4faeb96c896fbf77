"""The sweep over temperatures: the worked numbers of the paper's card, a loop, and the limits that are known."""

import math

import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.geometry import temperature
from mmclr.eval.suites.geometry.temperature import sweep

from mmclr.errors import UserError
from tests import bounds

U = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1]])
V = torch.tensor([[0.8, 0.6], [0, 1], [-0.28, 0.96]])


def unit(n, d, seed):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_cards_numbers():
    found = sweep(U, V, [0.1, 0.5])
    assert found["loss"][0.5].mean().item() == pytest.approx(0.815062, abs=bounds.printed(6))
    image = [1.925974, 1.881966, 1.857295]
    scores = (V @ U.T).double() / 0.5
    shares = scores.masked_fill(torch.eye(3, dtype=torch.bool), -math.inf).softmax(1)
    text = [math.exp(-sum(p * math.log(p) for p in row if p)) for row in shares.tolist()]
    for mine, a, b in zip(found["effective_negatives"][0.5].tolist(), image, text):
        assert mine == pytest.approx((a + b) / 2, abs=bounds.bound(terms=512))


def test_tiles_equal_a_loop(monkeypatch):
    monkeypatch.setattr(temperature, "TILE", 7)
    x, y = unit(20, 5, 0), unit(20, 5, 1)
    found = sweep(x, y, [0.2])
    for i in range(20):
        losses, hardest = [], []
        for row in ((x @ y.T)[i], (y @ x.T)[i]):
            weights = [math.exp(float(s) / 0.2) for s in row]
            wrong = sum(weights) - weights[i]
            losses.append(-math.log(weights[i] / sum(weights)))
            hardest.append(max(w for j, w in enumerate(weights) if j != i) / wrong)
        assert found["loss"][0.2][i].item() == pytest.approx(sum(losses) / 2, abs=bounds.bound(terms=512))
        assert found["hardest_share"][0.2][i].item() == pytest.approx(sum(hardest) / 2, abs=bounds.bound(terms=512))


def test_from_the_hardest_alone_to_all_alike():
    taus = [1e-4, 0.05, 0.5, 1e4]
    found = sweep(unit(30, 6, 2), unit(30, 6, 3), taus)["effective_negatives"]
    means = [found[tau].mean().item() for tau in taus]
    assert means == sorted(means)
    assert means[0] == pytest.approx(1, abs=0.05)
    assert means[-1] == pytest.approx(29, abs=1e-3)


def test_the_suite_and_what_it_refuses(shards, model_folder, tmp_path):
    arguments = [str(model_folder), "--data", shards, "--device", "cpu", "--cache", "none"]
    result = temperature.suite.measure([*arguments, "--temperatures", "1", "0.1"], Embedder.load(model_folder))
    assert set(result.metrics) == {f"{kind}@{tau}" for kind in temperature.KINDS for tau in ("0.1", "1")}
    low, high = result.ci95["loss@0.1"]
    assert low < result.metrics["loss@0.1"] < high
    assert [tau for tau, _ in result.examples["temperatures"]["loss"]] == [0.1, 1.0]
    with pytest.raises(UserError, match="a temperature is above 0"):
        temperature.main([*arguments, "--temperatures", "0"])
    with pytest.raises(UserError, match="has no captions"):
        temperature.run(Embedder.load(model_folder), ordinary(shards, caption="", label="json:colour"))
