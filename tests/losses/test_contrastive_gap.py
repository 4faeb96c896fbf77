"""uniformity, cross_uniformity, alignment: worked numbers, bounds and invariances."""

import math

import pytest
import torch

from mmclr.config import ConfigError
from mmclr.losses import build
from tests import bounds
from tests.losses.cards import GAP, batch, evaluate, random_pairs

TERMS = ("uniformity", "cross_uniformity", "alignment")


def rotated(points, seed=0):
    q = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    return (torch.tensor(points, dtype=torch.float64) @ q).tolist()


def test_worked_numbers():
    found = {key: evaluate(key, GAP, 0.5).item() for key in ("clip", *TERMS)}
    assert found["uniformity"] == pytest.approx(-1.677444, abs=bounds.printed(6))
    assert found["cross_uniformity"] == pytest.approx(-1.035566, abs=bounds.printed(6))
    assert found["alignment"] == pytest.approx(0.533333, abs=bounds.printed(6))
    cua = found["clip"] + found["uniformity"] + found["alignment"]
    assert cua == pytest.approx(-0.217213, abs=bounds.printed(6))
    assert cua + found["cross_uniformity"] == pytest.approx(-1.252780, abs=bounds.printed(6))
    assert evaluate("uniformity", GAP, fields={"image_weight": 1.0}).item() == pytest.approx(
        -1.499775, abs=bounds.printed(6)
    )
    assert evaluate("uniformity", GAP, fields={"image_weight": 0.0}).item() == pytest.approx(
        -1.855112, abs=bounds.printed(6)
    )


def test_two_samples_at_an_angle():
    angle = 0.7
    u = [(1, 0), (math.cos(angle), math.sin(angle))]
    for key in ("uniformity", "cross_uniformity"):
        assert evaluate(key, (u, u)).item() == pytest.approx(-2 * (2 - 2 * math.cos(angle)), rel=1e-12)
    assert evaluate("alignment", (u, u)).item() == 0


def test_collapsed_features_are_the_maximum_with_finite_gradients():
    same = [(0.6, 0.8)] * 5
    for key in TERMS:
        features = batch((same, same))
        value = evaluate(key, (same, same), **features)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (features["image"], features["text"])))


def test_rotating_both_changes_nothing_and_rotating_one_only_what_compares_them():
    image, text = random_pairs(12)
    for key in TERMS:
        before = evaluate(key, (image, text)).item()
        assert evaluate(key, (rotated(image), rotated(text))).item() == pytest.approx(before, rel=1e-12)
        alone = evaluate(key, (image, rotated(text))).item()
        assert (alone == pytest.approx(before, rel=1e-9)) == (key == "uniformity")


def test_a_pair_is_no_negative_of_itself():
    """The gradient of cross uniformity has no part along a pair: it is that of the off-diagonal sum."""
    features = batch(random_pairs(9))
    value = evaluate("cross_uniformity", random_pairs(9), **features)
    off = (4 * features["image"] @ features["text"].T).masked_fill(torch.eye(9).bool(), -torch.inf)
    dense = off.flatten().logsumexp(0) - 4 - math.log(72)
    leaves = (features["image"], features["text"])
    torch.testing.assert_close(value, dense)
    for mine, other in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(dense, leaves)):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("seed", range(5))
def test_bounds(seed):
    """0 <= distance^2 <= 4, so the terms lie between -4t and 0."""
    for key in ("uniformity", "cross_uniformity"):
        assert -8 <= evaluate(key, random_pairs(10, D=2, seed=seed)).item() <= 0


def test_a_power_with_an_infinite_gradient_is_refused():
    with pytest.raises(ConfigError, match="power"):
        build("alignment", {"power": 1.0})
