"""groco: the card's permutation matrices and losses, and what the sorting network must keep."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses.pairs.groco import ranks, upper_share
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs


def scores(*values):
    return torch.tensor([values], dtype=torch.float64)


def loss(negatives, positives, steepness=1.0):
    p = upper_share(scores(*negatives, *positives), len(positives), steepness)[0]
    target = torch.tensor([0.0] * len(negatives) + [1.0] * len(positives), dtype=torch.float64)
    return p, F.binary_cross_entropy(p, target).item()


def test_the_matrices_of_the_card():
    expected = [[0.446628, 0.401539, 0.151832], [0.391864, 0.387124, 0.221013], [0.161508, 0.211337, 0.627155]]
    torch.testing.assert_close(
        ranks(scores(0.1, 0.4, 0.7), 1.0)[0], torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6)
    )
    p, value = loss([0.1, 0.4], [0.7])
    assert p.tolist() == pytest.approx([0.151832, 0.221013, 0.627155], abs=bounds.printed(6))
    assert value == pytest.approx(0.293666, abs=bounds.printed(6))
    p, value = loss([0.1, 0.4], [0.3, 0.7])
    assert p.tolist() == pytest.approx([0.313377, 0.362217, 0.628923, 0.695482], abs=bounds.printed(6))
    assert value == pytest.approx(0.413156, abs=bounds.printed(6))


@pytest.mark.parametrize(("steepness", "value"), [(10.0, 0.065121), (100.0, 0.007034)])
def test_a_steep_network_is_sure(steepness, value):
    assert loss([0.1, 0.4], [0.7], steepness)[1] == pytest.approx(value, abs=bounds.printed(6))


def test_the_numbers_of_the_fixture():
    """k 2: .338255 for images, .366904 for captions; k 1: rows of images."""
    assert evaluate("groco", F3, fields={"k": 2}).item() == pytest.approx(0.352580, abs=bounds.printed(6))
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    s = image @ text.T
    rows = [
        -math.log(0.5 + math.atan(s[i, i] - max(s[i, :i].tolist() + s[i, i + 1 :].tolist())) / math.pi)
        for i in range(3)
    ]
    assert rows == pytest.approx([0.335785, 0.799623, 0.718928], abs=bounds.printed(6))
    columns = [
        -math.log(0.5 + math.atan(s[i, i] - max(s[:i, i].tolist() + s[i + 1 :, i].tolist())) / math.pi)
        for i in range(3)
    ]
    value = evaluate("groco", F3, fields={"k": 1})
    assert value.item() == pytest.approx((sum(rows) + sum(columns)) / 6, rel=1e-9)


def test_ranks_are_doubly_stochastic_and_blind_to_a_shift():
    x = torch.randn(5, 9, dtype=torch.float64)
    found = ranks(x, 3.0)
    ones = torch.ones(5, 9, dtype=torch.float64)
    torch.testing.assert_close(found.sum(1), ones)
    torch.testing.assert_close(found.sum(2), ones)
    torch.testing.assert_close(upper_share(x, 4, 3.0).sum(1), 4 * ones[:, 0])
    torch.testing.assert_close(ranks(x + 0.3, 3.0), found)


def test_a_sure_network_sorts():
    x = torch.randn(6, 8, dtype=torch.float64)
    hard = ranks(x, 1e9).argmax(1)  # which element has each rank
    assert torch.equal(hard, x.argsort(1))


def test_only_anchors_and_only_their_closest_get_gradients():
    features = batch(random_pairs(10))
    value = evaluate("groco", random_pairs(10), fields={"k": 3}, **features)
    image, text = features["image"], features["text"]
    s = image @ text.detach().T, text @ image.detach().T
    total = 0
    for matrix in s:
        hardest = matrix.masked_fill(torch.eye(10).bool(), -2).topk(3, 1).values.flip(1)
        p = upper_share(torch.cat([hardest, matrix.diagonal()[:, None]], 1), 1, 1.0)
        total = total + F.binary_cross_entropy(p, torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(10, 4)) / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-9)
    for mine, other in zip(torch.autograd.grad(value, (image, text)), torch.autograd.grad(total, (image, text))):
        torch.testing.assert_close(mine, other, rtol=bounds.bound(terms=16), atol=1e-10)


def test_several_captions_are_all_positives():
    features = batch(random_pairs(6))
    features["image"] = features["image"].detach()
    texts = F.normalize(torch.randn(6, 3, 8, dtype=torch.float64), dim=2)
    value = evaluate("groco", random_pairs(6), fields={"k": 2}, **features | {"texts": texts})
    of_image = []
    for i in range(6):
        negatives = (texts[:, 0] @ features["image"][i])[torch.arange(6) != i].topk(2).values.flip(0)
        positives = (texts[i] @ features["image"][i]).sort().values
        of_image.append(loss(negatives.tolist(), positives.tolist())[1])
    of_text = []
    for i in range(6):
        negatives = (features["image"] @ texts[i, 0])[torch.arange(6) != i].topk(2).values.flip(0)
        of_text.append(loss(negatives.tolist(), [float(features["image"][i] @ texts[i, 0])])[1])
    assert value.item() == pytest.approx((sum(of_image) + sum(of_text)) / 12, rel=bounds.bound(terms=16))


@pytest.mark.parametrize("negatives", ["own", "both"])
def test_negatives_of_the_anchors_own_modality(negatives):
    features = batch(random_pairs(8))
    value = evaluate("groco", random_pairs(8), fields={"k": 3, "negatives": negatives}, **features)
    sides, total = (features["image"], features["text"]), 0
    for x, y in (sides, sides[::-1]):
        columns = [x @ x.T] + [x @ y.T] * (negatives == "both")
        off = torch.cat([c.masked_fill(torch.eye(8).bool(), -2) for c in columns], 1).topk(3, 1).values.flip(1)
        p = upper_share(torch.cat([off, (x * y).sum(1, keepdim=True)], 1), 1, 1.0)
        total += F.binary_cross_entropy(p, torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(8, 4)) / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-9)


def test_missing_negatives_count_nothing():
    """Two captions are equal: their anchors have one negative, the third two, of five that were asked for."""
    ids = torch.tensor([0, 0, 1])
    value = evaluate("groco", F3, fields={"k": 5}, caption_id=ids)
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    total = 0.0
    for s in (image @ text.T, text @ image.T):
        for i, off in enumerate(([2], [2], [0, 1])):
            negatives = s[i, off].sort().values.tolist()
            p = upper_share(scores(*[-1e6] * (2 - len(off)), *negatives, s[i, i].item()), 1, 1.0)[0]
            target = torch.tensor([0.0] * len(off) + [1.0], dtype=torch.float64)
            total += F.binary_cross_entropy(p[2 - len(off) :], target).item()
    assert value.item() == pytest.approx(total / 6, rel=bounds.bound(terms=16))
