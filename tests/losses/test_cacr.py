"""cacr: worked numbers, its relation to dcl, and limits of its weights."""

import pytest
import torch

from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs


def test_worked_number():
    assert evaluate("cacr", F3).item() == pytest.approx(-0.305758, abs=bounds.printed(6))


def test_worked_number_of_the_attraction_with_two_captions():
    """Attraction rows 1.731229, 0.239475, 0.564277 (image anchors) and .4, .4, .08 (caption anchors), halved."""
    image, text = F3
    texts = torch.tensor([text, [(0, 1), (0.6, 0.8), (-0.8, 0.6)]], dtype=torch.float64).transpose(0, 1)
    value = evaluate("cacr", (image, text), fields={"beta": 0.0}, texts=texts)
    assert value.item() == pytest.approx((0.844994 + 0.88 / 3) / 2, abs=bounds.printed(6))


def test_its_gradient_is_that_of_dcl():
    """One caption, constant weights: 2 tau times the gradient of DCL at tau = 1 / (2 t_push)."""
    pairs = random_pairs(8)
    found = []
    for key, tau in (("cacr", 1.0), ("dcl", 1 / 3)):
        features = batch(pairs, tau)
        value = evaluate(key, pairs, tau, {"t_push": 1.5} if key == "cacr" else {}, **features)
        found.append(torch.autograd.grad(value, (features["image"], features["text"])))
    for mine, dcl in zip(*found):
        torch.testing.assert_close(mine, dcl * 2 / 3, **bounds.near())


def test_without_hardness_all_negatives_push_alike():
    pairs = random_pairs(8)
    s = torch.tensor(pairs[0], dtype=torch.float64) @ torch.tensor(pairs[1], dtype=torch.float64).T
    expected = (2 - 2 * s.diagonal()).mean() - (2 - 2 * s)[~torch.eye(8).bool()].mean()
    assert evaluate("cacr", pairs, fields={"t_push": 0.0}).item() == pytest.approx(expected.item(), rel=1e-12)


def test_in_the_limit_only_the_hardest_pushes():
    pairs = random_pairs(8)
    s = torch.tensor(pairs[0], dtype=torch.float64) @ torch.tensor(pairs[1], dtype=torch.float64).T
    off = s.masked_fill(torch.eye(8).bool(), -2)
    expected = (2 - 2 * s.diagonal()).mean() - (4 - 2 * off.amax(0) - 2 * off.amax(1)).mean() / 2
    assert evaluate("cacr", pairs, fields={"t_push": 1e4}).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_equal_the_dense_form(detach):
    features = batch(random_pairs(10))
    more = torch.randn(10, 3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    texts = torch.nn.functional.normalize(more, dim=2).requires_grad_()
    fields = {"detach_weights": detach, "t_pull": 0.7, "t_push": 1.3, "alpha": 0.8, "beta": 1.2}
    ours = evaluate("cacr", random_pairs(10), fields=fields, **features | {"texts": texts})
    image, constant = features["image"], (lambda p: p.detach()) if detach else (lambda p: p)
    s = image @ texts[:, 0].T
    costs = 2 - 2 * (image[:, None] * texts).sum(2)
    pull = (constant((0.7 * costs).softmax(1)) * costs).sum(1) + 2 - 2 * s.diagonal()
    off = (2.6 * s).masked_fill(torch.eye(10).bool(), -torch.inf)
    push = sum((constant(off.softmax(d)) * (2 - 2 * s)).sum(d) for d in (0, 1))
    dense = (0.8 * pull - 1.2 * push).mean() / 2
    assert ours.item() == pytest.approx(dense.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(ours, (image, texts)), torch.autograd.grad(dense, (image, texts))):
        torch.testing.assert_close(mine, other, **bounds.near())
