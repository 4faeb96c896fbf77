"""bacon: the card's posteriors, evenness and values, a dense formula, and InfoNCE as a limit."""

import numpy as np
import pytest
import torch

from mmclr.losses import Facts, build
from mmclr.losses.soft.bacon import contrast, posterior, unevenness
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

CARD = ([(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.6, 0.8)])
LOGITS, COUNTS = [[2, 0, -1], [0.5, 1, 0.2], [0, 0.1, 3]], [60.0, 30, 10]
Q = [[0.761414, 0.145729, 0.092857], [0.194315, 0.453074, 0.352610], [0.019319, 0.030195, 0.950486]]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def dense(image, text, q, scale, weights):
    """Return the contrast with M and all similarities written out."""
    s, m = scale * image @ text.T, q @ q.T
    m = m - torch.diag(m.diag()) + torch.eye(len(m), dtype=m.dtype)
    each = sum(-(m * z.log_softmax(1)).sum(1) / m.sum(1) for z in (s, s.T)) / 2
    return (weights / weights.sum()) @ each


def test_the_posteriors_of_the_card():
    q = posterior(double(LOGITS), double(COUNTS), 0.5)
    torch.testing.assert_close(q, double(Q), rtol=0, atol=bounds.printed(6))
    m = q @ q.T
    found = [m[0, 1].item(), m[0, 2].item(), m[1, 2].item()]
    assert found == pytest.approx([0.246723, 0.107369, 0.352585], abs=bounds.printed(6))
    plain = posterior(double(LOGITS), double(COUNTS), 0.0)
    assert plain[0].tolist() == pytest.approx([0.843795, 0.114195, 0.042010], abs=bounds.printed(6))
    assert (q[:, 2] > plain[:, 2]).all()


@pytest.mark.parametrize(("exponent", "expected"), [(1.1, 0.390224), (0.0, 0.032932)])
def test_the_evenness_of_the_card(exponent, expected):
    p = double(LOGITS).softmax(1).mean(0)
    assert unevenness(p, double(COUNTS), exponent).item() == pytest.approx(expected, abs=bounds.printed(6))


def test_evenness_goes_from_0_to_log_k():
    assert unevenness(double([0.6, 0.3, 0.1]), double(COUNTS), 1.0).item() == pytest.approx(0, abs=1e-15)
    assert unevenness(double([0, 0, 1.0]), double(COUNTS), 1.0).item() == pytest.approx(np.log(3))
    nothing = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # as where all weights are 0
    assert torch.autograd.grad(unevenness(nothing, double(COUNTS), 1.1), nothing)[0].eq(0).all()


def test_the_loss_of_the_card():
    image, text = map(double, CARD)
    q = posterior(double(LOGITS), double(COUNTS), 0.5)
    value = contrast(image, text, q, double(2.0), torch.ones(3).double())
    assert value.item() == pytest.approx(1.009380, abs=bounds.printed(6))


def test_clusters_of_their_own_are_clip():
    image, text = map(double, CARD)
    value = contrast(image, text, torch.eye(3).double(), double(2.0), torch.ones(3).double())
    assert value.item() == pytest.approx(0.806810, abs=bounds.printed(6))


def test_equals_the_dense_formula_with_gradients():
    image, text = (double(side).requires_grad_() for side in random_pairs(25))
    g = torch.Generator().manual_seed(0)
    q, w = torch.rand(25, 4, generator=g).double().softmax(1), torch.rand(25, generator=g).double()
    leaves = (image, text, double(6.0).requires_grad_())
    values = [f(image, text, q, leaves[2], w) for f in (contrast, dense)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    for mine, expected in zip(*(torch.autograd.grad(v, leaves) for v in values)):
        torch.testing.assert_close(mine, expected, **bounds.near())


def test_clusters_are_those_of_captions():
    """Before there are some it is InfoNCE."""
    torch.manual_seed(0)
    objective = build("bacon", {"clusters": 3, "refresh": 1, "rho": 0.7, "tau": 0.3, "reg": 0.4})
    objective.setup(Facts(samples=64, width=8, batch=16))
    pairs = random_pairs(16)
    features = batch(pairs, 0.2, index=torch.arange(16))
    values = []
    for _ in "ab":
        values.append(objective.double()(**{name: features[name] for name in objective.needs}))
        means, counts = objective.clustering[0].means.clone(), objective.clustering[0].counts.clone()
        objective.after_step()
    assert values[0].item() == pytest.approx(evaluate("clip", pairs, 0.2).item(), rel=1e-12)
    image, text = map(double, pairs)
    c = torch.nn.functional.normalize(means, dim=1)
    assert counts.tolist() == torch.bincount(torch.cdist(text, means).argmin(1), minlength=3).tolist()
    q = (text @ c.T / 0.3 - 0.7 * (counts / 16).log()).softmax(1)
    p = (image @ c.T / 0.3).softmax(1).mean(0) / counts**1.1
    p = p / p.sum()
    expected = dense(image, text, q, 5.0, torch.ones(16).double()) + 0.4 * (p @ p.log() + np.log(3))
    assert values[1].item() == pytest.approx(expected.item(), rel=1e-9)
    assert all(
        slope.isfinite().all() for slope in torch.autograd.grad(values[1], (features["image"], features["text"]))
    )
