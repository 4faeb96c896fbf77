"""dcl and dclw: worked numbers, the identity with InfoNCE, gradients."""

import pytest
import torch

from mmclr.config import ConfigError
from mmclr.losses import build
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs


def test_worked_numbers():
    assert evaluate("dcl", F3, 0.5).item() == pytest.approx(0.116969, abs=bounds.printed(6))
    assert evaluate("dcl", F3, 0.5, {"intra": True}).item() == pytest.approx(0.910529, abs=bounds.printed(6))
    assert evaluate("dclw", F3, 0.5).item() == pytest.approx(0.140792, abs=bounds.printed(6))


def test_it_is_infonce_without_the_positive():
    """DCL_i = InfoNCE_i + log(1 - P_ii), so it is never above InfoNCE."""
    pairs = random_pairs(9)
    s = 5 * torch.tensor(pairs[0], dtype=torch.float64) @ torch.tensor(pairs[1], dtype=torch.float64).T
    left = sum(torch.log1p(-m.softmax(1).diagonal()).mean() for m in (s, s.T)) / 2
    clip = evaluate("clip", pairs, 0.2)
    assert evaluate("dcl", pairs, 0.2).item() == pytest.approx((clip + left).item(), rel=1e-12)


def test_the_positives_gradient_is_constant():
    """Whatever the similarities, the pull along the pair is -1/tau and the pushes add up to +1/tau."""
    features = batch(random_pairs(7), 0.2)
    objective = build("dcl", {})
    given = {name: features[name] for name in objective.needs} | {"scale": torch.tensor(5.0, dtype=torch.float64)}
    dx, dy = torch.autograd.grad(objective(**given), (features["image"], features["text"]))
    s = 5 * features["image"] @ features["text"].T
    p = s.masked_fill(torch.eye(7).bool(), -torch.inf)
    g = (p.softmax(1) + p.softmax(0) - 2 * torch.eye(7)) * 5 / (2 * 7)
    torch.testing.assert_close(dx, g @ features["text"])
    torch.testing.assert_close(dy, g.T @ features["image"])


def test_equally_close_positives_weigh_alike():
    image = random_pairs(6)[0]
    assert evaluate("dclw", (image, image)).item() == pytest.approx(evaluate("dcl", (image, image)).item(), rel=1e-12)
    pairs = random_pairs(6)
    wide = evaluate("dclw", pairs, fields={"sigma": 1e6})
    assert wide.item() == pytest.approx(evaluate("dcl", pairs).item(), abs=bounds.bound(terms=512))


def test_two_pairs():
    """With B = 2 a row is (s_ij - s_ii) / tau."""
    pairs = random_pairs(2)
    s = torch.tensor(pairs[0], dtype=torch.float64) @ torch.tensor(pairs[1], dtype=torch.float64).T / 0.1
    expected = (s[0, 1] + s[1, 0] - s[0, 0] - s[1, 1]) / 2
    assert evaluate("dcl", pairs, 0.1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="sigma"):
        build("dclw", {"sigma": 0.0})
