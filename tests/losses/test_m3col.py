"""m3col: the card's numbers, partners and weights, and the switch to soft targets."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import build
from mmclr.losses.soft.m3col import mixed_contrast, soft_clip
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

X, Y = [(1, 0), (0, 1), (0.6, 0.8)], [(0.8, 0.6), (-0.6, 0.8), (1, 0)]
SHARE, PARTNER = [0.7, 1.0, 0.4], [2, 0, 1]


def tensors(*sides):
    return [torch.tensor(side, dtype=torch.float64) for side in sides]


def call(fields, pairs, progress=0.0, **more):
    torch.manual_seed(0)
    features = batch(pairs, **more) | {"progress": torch.tensor(progress)}
    features.setdefault("index", torch.arange(len(features["image"])))
    objective = build("m3col", fields)
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_mixtures_of_the_card():
    x, y, share = tensors(X, Y, SHARE)
    mixture = share[:, None] * x + (1 - share)[:, None] * x[PARTNER]
    assert mixture.flatten().tolist() == pytest.approx([0.88, 0.24, 0, 1, 0.24, 0.92])
    mixture = F.normalize(mixture, dim=1)
    value = mixed_contrast(mixture, y, share, torch.tensor(PARTNER), 0.1)
    assert value.mean().item() == pytest.approx(1.417337, abs=bounds.printed(6))
    s, p = 10 * mixture @ y.T, torch.diag(share).index_put_((torch.arange(3), torch.tensor(PARTNER)), 1 - share)
    assert -(p * s.log_softmax(1)).sum(1).mean().item() == pytest.approx(1.391218, abs=bounds.printed(6))
    assert -(p * s.log_softmax(0)).sum().item() / 3 == pytest.approx(1.443455, abs=bounds.printed(6))


def test_the_soft_targets_of_the_card():
    x, y = tensors(X, Y)
    assert soft_clip(x, y, 0.125).mean().item() == pytest.approx(1.372487, abs=bounds.printed(6))
    assert soft_clip(y, x, 0.125).mean().item() == pytest.approx(2.066111, abs=bounds.printed(6))


def test_soft_targets_equal_the_dense_form_with_gradients():
    features = batch(random_pairs(20))
    x, y = features["image"], features["text"]
    q = (y @ y.T / 0.2).softmax(1)
    u = x @ y.T / 0.2
    dense = -((q * u.log_softmax(1)).sum(1) + (q * u.T.log_softmax(1)).sum(1)) / 2
    mine = soft_clip(x, y, 0.2)
    torch.testing.assert_close(mine, dense, **bounds.near())
    for ours, other in zip(torch.autograd.grad(mine.sum(), (x, y)), torch.autograd.grad(dense.sum(), (x, y))):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-12)
    assert (mine >= torch.special.entr(q).sum(1) - 1e-12).all()


def test_unmixed_it_is_twice_clip():
    value, _ = call({"mixed": 0.0, "tau": 0.2}, random_pairs(12))
    assert value.item() == pytest.approx(2 * evaluate("clip", random_pairs(12), 0.2).item(), rel=1e-9)


def test_the_switch():
    pairs = random_pairs(12)
    mixed, last, soft = (call({}, pairs, progress)[0].item() for progress in (0.0, 0.3299, 0.33))
    assert mixed == last != soft
    image, text = tensors(*pairs)
    expected = soft_clip(text, image, 0.125).mean() + soft_clip(image, text, 0.125).mean()
    assert soft == pytest.approx(expected.item(), rel=1e-9)


def test_both_modalities_have_partners_of_their_own(monkeypatch):
    made = []
    plain = mixed_contrast
    monkeypatch.setattr("mmclr.losses.soft.m3col.mixed_contrast", lambda *a: made.append(a) or plain(*a))
    call({}, random_pairs(400))
    (mixture, _, share, partner, _), (_, _, others, theirs, _) = made
    assert sorted(partner.tolist()) == list(range(400))
    assert (partner != torch.arange(400)).all()
    assert not torch.equal(partner, theirs)
    assert not torch.equal(share, others)
    assert 0.4 < (share < 1).double().mean() < 0.6
    image, text = tensors(*random_pairs(400))
    expected = F.normalize(share[:, None] * text + (1 - share)[:, None] * text[partner], dim=1)
    torch.testing.assert_close(mixture, expected)


def test_the_partner_gets_its_share_of_the_gradient():
    x, y, share = tensors(X, Y, SHARE)
    x.requires_grad_()
    partner = torch.tensor(PARTNER)
    mixture = (share[:, None] * x + (1 - share)[:, None] * x[partner]).requires_grad_()
    value = mixed_contrast(mixture, y, share, partner, 0.1).sum()
    of_mixture, of_x = torch.autograd.grad(value, (mixture, x))
    expected = share[:, None] * of_mixture
    expected = expected.index_add(0, partner, (1 - share)[:, None] * of_mixture)
    torch.testing.assert_close(of_x, expected)


def test_samples_that_swap_may_exchange_their_roles():
    """With halves and partners in pairs, mixtures are those of the partners, too."""
    x, y = tensors(*random_pairs(8))
    half, partner = torch.full((8,), 0.5, dtype=torch.float64), torch.arange(8).view(4, 2).flip(1).flatten()
    values = [
        mixed_contrast(F.normalize(x + x[partner], dim=1)[order], y[order], half, partner, 0.1).mean().item()
        for order in (torch.arange(8), partner)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_sharp_targets_of_captions_that_differ_are_hard():
    x, y = F.normalize(torch.randn(5, 5, dtype=torch.float64), dim=1), torch.eye(5, dtype=torch.float64)
    tau = 0.02
    s = x @ y.T / tau
    hard = (F.cross_entropy(s, torch.arange(5)) + F.cross_entropy(s.T, torch.arange(5))) / 2
    assert soft_clip(x, y, tau).mean().item() == pytest.approx(hard.item(), rel=1e-9)
