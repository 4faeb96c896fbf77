"""mochi: the card's mixes, their stop-gradients, and what no mix may do."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import build
from mmclr.losses.algebra import Pairs, top
from mmclr.losses.hard.mochi import mix_anchor, mix_two
from tests import bounds
from tests.losses.cards import F3, batch, random_pairs

LATE = torch.tensor(0.5)


def call(fields, pairs, tau=0.5, progress=LATE, **more):
    torch.manual_seed(0)
    features = batch(pairs, tau, progress=progress, **more)
    features.setdefault("index", torch.arange(len(features["image"])))
    objective = build("mochi", fields)
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_rows_of_the_card():
    """The hardest and the second mixed by .3, the hardest with the anchor by .4."""
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    found = top(image, text, 2, exclude=Pairs())
    zero, one = torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1, dtype=torch.int64)
    near = mix_two(found.values, found.columns, text, zero, one, torch.full((3, 1), 0.3, dtype=torch.float64))
    nearer = mix_anchor(image, found.values, zero, torch.full((3, 1), 0.4, dtype=torch.float64))
    assert near[:, 0].tolist() == pytest.approx([-0.197667, 0.829880, 0.789352], abs=bounds.printed(6))
    assert nearer[:, 0].tolist() == pytest.approx([0.554700, 0.985507, 1.0], abs=bounds.printed(6))
    logits = 2 * torch.cat([image @ text.T, near, nearer], 1)
    rows = F.cross_entropy(logits, torch.arange(3), reduction="none")
    assert rows.tolist() == pytest.approx([0.725348, 1.715280, 1.473429], abs=bounds.printed(6))


@pytest.mark.parametrize("fields", [{"s": 0, "t": 0}, {"begin": 0.6, "s": 4, "t": 4}])
def test_without_mixes_and_before_the_first_it_is_clip(fields):
    value, _ = call(fields, F3)
    assert value.item() == pytest.approx(0.815062, abs=bounds.printed(6))


@pytest.mark.parametrize("fields", [{"s": 8}, {"s": 0, "t": 8}, {"s": 4, "t": 4, "n": 3}])
def test_mixes_make_it_harder(fields):
    pairs = random_pairs(20)
    value, _ = call(fields, pairs, 0.1)
    assert value > call({"s": 0}, pairs, 0.1)[0]


@pytest.mark.parametrize("fields", [{"s": 5, "t": 0}, {"s": 0, "t": 5}, {"s": 5, "t": 3}])
def test_gradients_equal_those_with_constant_points(fields, monkeypatch):
    """The mixes rebuilt as vectors without gradient, from the same draws."""
    made = []
    for name in ("mix_two", "mix_anchor"):
        plain = globals()[name]
        monkeypatch.setattr(f"mmclr.losses.hard.mochi.{name}", lambda *a, plain=plain: made.append(a) or plain(*a))
    value, features = call({"n": 6, **fields}, random_pairs(20), 0.2)
    image, text = features["image"], features["text"]
    total = 0
    for x, y, (_, columns, every, a, b, alpha), (_, _, c, beta) in (
        (image, text, made[0], made[1]),
        (text, image, made[2], made[3]),
    ):
        ends = (every[columns.gather(1, at)] for at in (a, b, c))
        one, two, three = ends
        h = alpha[..., None] * one + (1 - alpha[..., None]) * two
        other = beta[..., None] * x.detach()[:, None] + (1 - beta[..., None]) * three
        points = F.normalize(torch.cat([h, other], 1), dim=2).detach()
        logits = torch.cat([x @ y.T, (x[:, None] * points).sum(2)], 1) / 0.2
        total = total + F.cross_entropy(logits, torch.arange(20)) / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(value, (image, text)), torch.autograd.grad(total, (image, text))):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_draws_are_what_they_should_be(monkeypatch):
    """Two different of the n hardest; alpha in (0, 1), beta in (0, .5); other draws for another sample or step."""
    made = []
    for name in ("mix_two", "mix_anchor"):
        plain = globals()[name]
        monkeypatch.setattr(f"mmclr.losses.hard.mochi.{name}", lambda *a, plain=plain: made.append(a) or plain(*a))
    call({"n": 5, "s": 400, "t": 400}, random_pairs(30))
    (_, columns, _, a, b, alpha), (_, _, c, beta) = made[:2]
    assert columns.shape == (30, 5)
    for places in (a, b, c):
        assert places.unique().tolist() == [0, 1, 2, 3, 4]
    assert (a != b).all()
    assert 0 < alpha.min() < 0.01
    assert 0.99 < alpha.max() < 1
    assert 0 < beta.min() < 0.005
    assert 0.495 < beta.max() < 0.5
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(alpha, made[2][5])  # those of the captions


def test_a_mix_with_the_anchor_is_harder_and_a_mix_of_two_may_be():
    found = torch.tensor([[0.6, 0.6]])
    every = torch.tensor([[0.6, 0.8], [0.6, -0.8]])
    at = [torch.tensor([[0]]), torch.tensor([[1]])]
    half = torch.tensor([[0.5]])
    assert mix_two(found, torch.tensor([[0, 1]]), every, *at, half).item() == pytest.approx(1.0)
    assert mix_anchor(torch.tensor([[1.0, 0.0]]), found, at[0], half / 2).item() > 0.6
    assert mix_anchor(torch.tensor([[1.0, 0.0]]), found, at[0], half * 0).item() == pytest.approx(0.6)
    end = mix_two(found, torch.tensor([[0, 1]]), every, *at, half * 0)
    assert end.item() == pytest.approx(0.6)


def test_few_negatives_are_enough():
    ids = torch.tensor([0, 0, 0, 1])
    value, features = call({"n": 64, "s": 3, "t": 3}, random_pairs(4), caption_id=ids)
    assert value.isfinite()
    assert torch.autograd.grad(value, features["image"])[0].isfinite().all()
