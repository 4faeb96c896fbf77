"""Heads between embedding and objective: the card's numbers, what is trained, and what a term looks like with one."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmclr import heads
from mmclr.config import ConfigError
from mmclr.heads.projection import Perceptron, Reweight
from mmclr.losses import Facts
from mmclr.losses.weighted_sum import build_terms
from mmclr.losses.with_options import WithOptions
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs


def headed(head, key="clip", width=2, **fields):
    torch.manual_seed(0)
    objective = build_terms({"term": {"use": key, "head": head, **fields}})["term"].objective
    objective.setup(Facts(samples=10, width=width))
    return objective.double()


def call(objective, pairs, tau=0.5, **more):
    features = batch(pairs, tau, **more)
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_numbers_of_the_card():
    """kappa 2, weights (1, .5): cosines and both directions of InfoNCE."""
    head = Reweight(kappa=2.0).make(2)
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    cosines = head(image, "image") @ head(text, "text").T
    expected = [[0.936329, 0, -0.503871], [0.973841, 0.554700, 0.059892], [0.351123, 1, 0.863779]]
    torch.testing.assert_close(cosines, torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6))
    metric = torch.tensor([1, 0.25], dtype=torch.float64)
    norms = (image.square() @ metric)[:, None].sqrt() * (text.square() @ metric).sqrt()
    torch.testing.assert_close(cosines, image @ metric.diag() @ text.T / norms, **bounds.near())
    for weight, value in ((1.0, 0.825759), (0.0, 0.810620), (0.5, 0.818190)):
        found, _ = call(headed({"use": "reweight", "kappa": 2.0}, image_weight=weight), F3)
        assert found.item() == pytest.approx(value, abs=bounds.printed(6))


def test_kappa_1_is_no_head():
    found, features = call(headed({"use": "reweight", "kappa": 1.0}, width=8), random_pairs(9))
    plain = evaluate("clip", random_pairs(9), 0.5)
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)


def test_a_large_kappa_leaves_one_feature():
    head = Reweight(kappa=1e6).make(8)
    x, y = (torch.tensor(side, dtype=torch.float64) for side in random_pairs(5))
    cosines = head(x, "image") @ head(y, "text").T
    torch.testing.assert_close(cosines, x[:, :1].sign() * y[:, 0].sign(), rtol=0, atol=1e-4)


def test_reweighting_learns_nothing_and_keeps_nothing():
    objective = headed({"use": "reweight"})
    assert not list(objective.parameters())
    assert not objective.state_dict()


def test_gradients_are_weighed_before_the_normalisation():
    head = Reweight(kappa=2.0).make(3)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1, 0.5, 0.25], dtype=torch.float64)
    inner = (x.detach() * weights).requires_grad_()
    (mine,) = torch.autograd.grad(head(x, "image").pow(3).sum(), x)
    (other,) = torch.autograd.grad(F.normalize(inner, dim=1).pow(3).sum(), inner)
    torch.testing.assert_close(mine, other * weights)


def test_layers_below_a_head_are_flatter():
    """Two balanced layers that are fitted to diag(4, 1) have singular values 2 and 1 below."""
    first, second = (nn.Linear(2, 2, bias=False).double() for _ in range(2))
    for layer in (first, second):
        layer.weight.data = 0.1 * torch.eye(2, dtype=torch.float64)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        (second.weight @ first.weight - torch.diag(torch.tensor([4.0, 1.0]).double())).square().sum().backward()
        optimizer.step()
    assert torch.linalg.svdvals(first.weight).tolist() == pytest.approx([2, 1], abs=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_a_perceptron_of_each_side(shared):
    head = Perceptron(hidden=6, out=5, shared=shared).make(8).double()
    x = torch.tensor(random_pairs(4)[0], dtype=torch.float64)
    image, text = head(x, "image"), head(x, "text")
    assert image.shape == (4, head.width) == (4, 5)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(4).double())
    assert torch.equal(image, text) == shared
    assert head.matrix("image") is None
    views = torch.stack([x, x.flip(0)], 1)
    torch.testing.assert_close(head(views, "image")[:, 0], image)


def test_linear_heads_are_matrices():
    for head in (Perceptron(hidden=0, out=5).make(8), Reweight(kappa=1.3).make(8)):
        x = torch.randn(6, 8)
        for side in ("image", "text"):
            torch.testing.assert_close(head(x, side), F.normalize(x @ head.matrix(side).T, dim=1))


def test_a_term_trains_through_its_head():
    objective = headed({"use": "mlp", "hidden": 6, "out": 5}, width=8)
    value, features = call(objective, random_pairs(9))
    x, y = objective.head(features["image"], "image"), objective.head(features["text"], "text")
    logits = 2 * x @ y.T
    expected = sum(F.cross_entropy(m, torch.arange(9)) for m in (logits, logits.T)) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    grads = torch.autograd.grad(value, list(objective.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)
    assert set(objective.state_dict()) == {
        f"head.{side}.{n}.{p}" for side in ("image", "text") for n in (0, 2) for p in ("weight", "bias")
    }


def test_an_objective_sees_the_heads_width():
    """Its prototypes have as many features."""
    objective = headed({"use": "mlp", "hidden": 6, "out": 5}, key="swav", width=8, prototypes=4)
    assert objective.objective.prototype.shape == (4, 5)


def test_a_side_that_nobody_asks_for_is_not_trained():
    both = headed({"use": "mlp", "hidden": 6, "out": 5}, key="uniformity", width=8)
    assert all(p.requires_grad for p in both.parameters())

    class OneSided(nn.Module):
        needs, cost, key, full_batch, needs_teacher = ("image",), "local", "one", False, False

        def setup(self, facts):
            """Nothing."""

    one = WithOptions(OneSided(), Perceptron(hidden=6, out=5))
    one.setup(Facts(width=8))
    assert {name: p.requires_grad for name, p in one.named_parameters()} == {
        f"head.{side}.{n}.{p}": side == "image"
        for side in ("image", "text")
        for n in (0, 2)
        for p in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"use": "mpl"}, "objectives.clip.head.use: there is no head 'mpl'; did you mean mlp"),
        ({"use": "mlp", "hiden": 3}, "objectives.clip.head.hiden: unknown key; did you mean hidden"),
        ({"use": "reweight", "kappa": 0.5}, "kappa is at least 1"),
        ({}, "there is no head None"),
    ],
)
def test_faults_are_told_with_their_place(head, message):
    with pytest.raises(ConfigError, match=message):
        build_terms({"clip": {"head": head}})


def test_kappa_is_exact_where_it_can_be():
    weights = Reweight(kappa=1.1).make(512).get_buffer("weights")
    assert weights[511].item() == pytest.approx(math.exp(-511 * math.log(1.1)), rel=bounds.bound(terms=16))
    assert set(heads.catalogue()) == {"reweight", "mlp", "split", "whiten"}
