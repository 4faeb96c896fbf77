"""meow, meow_given, meow_adaptive: the card's weights and values, dense formulas, limits, a network."""

import math

import pytest
import torch

from mmclr.config import ConfigError
from mmclr.losses import Facts, build
from mmclr.losses.soft.meow import (
    adaptive,
    concentration,
    contrast,
    prototypes,
    shared_clusters,
    shared_tags,
    temperatures,
)
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

CARD = ([(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.6, 0.8)])
IDS = torch.tensor([(0, 0), (0, 1), (1, 1)])


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def dense(image, text, w, scale, weights, include_pos=True, network=False):
    """Return (L_image + L_text) / 2 from the weights [b, b]; those of a network are brought to the mean 1."""
    s, own = scale * image @ text.T, torch.eye(len(image), dtype=torch.bool)
    both = []
    for z, v in ((s, w), (s.T, w.T)):
        v = v.masked_fill(own, 0)
        v = v * (len(v) - 1) / v.sum(1, keepdim=True) if network else v
        v = v.masked_fill(own, float(include_pos))
        total = (v * z.exp()).sum(1)
        both.append(torch.where(total > 0, total, z.diag().exp()).log() - z.diag())
    return weights / weights.sum() @ (both[0] + both[1]) / 2


@pytest.mark.parametrize(("include_pos", "expected"), [(True, 0.556727), (False, -0.485888)])
def test_the_loss_of_the_card(include_pos, expected):
    image, text = map(double, CARD)
    tile = shared_clusters(IDS)
    w = tile(slice(0, 3), slice(0, 3)).exp()
    assert [w[0, 1], w[0, 2], w[1, 2]] == pytest.approx([0.5, 1, 0.5])
    value = contrast(image, text, tile, double(2.0), torch.ones(3).double(), include_pos)
    assert value.item() == pytest.approx(expected, abs=bounds.printed(6))


def test_the_prototypes_of_the_card():
    found = prototypes(double(CARD[0]), double([(0.8, 0.6), (0, 1)]), double([0.5, 0.25]), IDS[:, 0])
    assert found.tolist() == pytest.approx([0.183901, 1.525326, 0.059033], abs=bounds.printed(6))
    assert found.mean().item() == pytest.approx(0.589420, abs=bounds.printed(6))


def test_the_concentration_of_the_card():
    z = double([(0.8, 0.6), (1, 0), (0.6, 0.8), (0, 1)]).view(2, 2, 2)
    spreads = (z - z.mean(1, keepdim=True)).norm(dim=2).mean(1)
    raw = concentration(spreads, double([2.0, 2.0]))
    assert raw.tolist() == pytest.approx([0.127259] * 2, abs=bounds.printed(6))
    assert temperatures(spreads, double([2.0, 2.0]), 0.1).tolist() == pytest.approx([0.1] * 2)


def test_a_cluster_of_one_is_as_wide_as_the_widest():
    found = temperatures(double([0.0, 0.3, 0.6, 0.4]), double([1.0, 5, 5, 5]), 0.2)
    assert found[0] == found.max()
    assert found.mean().item() == pytest.approx(0.2)
    assert temperatures(double([0.0, 0.0]), double([1.0, 1.0]), 0.2).tolist() == [0.2, 0.2]


def test_the_networks_weights_of_the_card():
    """Given the weights after they were brought to the mean 1, as printed."""
    image, text = map(double, CARD)
    w = double([[0.5, 0.9, 0.2], [0.4, 0.5, 0.6], [0.7, 0.1, 0.5]])
    off = w - torch.diag(w.diag())
    off = 2 * off / off.sum(1, keepdim=True)
    assert off[0].tolist() == pytest.approx([0, 1.636364, 0.363636], abs=bounds.printed(6))
    s = 2 * image @ text.T
    there = ((off + torch.eye(3)) * s.exp()).sum(1).log() - s.diag()
    assert there.mean().item() == pytest.approx(0.721018, abs=bounds.printed(6))
    value = dense(image, text, w, 2.0, torch.ones(3).double(), network=True)
    back = ((2 * (w.T - torch.diag(w.diag())) / (w.sum(0) - w.diag())[:, None] + torch.eye(3)) * s.T.exp()).sum(1).log()
    assert value.item() == pytest.approx((there.mean() + (back - s.diag()).mean()).item() / 2)


@pytest.mark.parametrize("include_pos", [True, False])
def test_equals_the_dense_formula_with_gradients(include_pos):
    image, text = (double(side).requires_grad_() for side in random_pairs(25))
    g = torch.Generator().manual_seed(0)
    ids, weights = torch.randint(0, 3, (25, 2), generator=g), torch.rand(25, generator=g).double()
    leaves = (image, text, double(6.0).requires_grad_())
    w = 1 - (ids[:, None] == ids).double().mean(2)
    values = [
        contrast(image, text, shared_clusters(ids), leaves[2], weights, include_pos),
        dense(image, text, w, leaves[2], weights, include_pos),
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    for mine, expected in zip(*(torch.autograd.grad(v, leaves) for v in values)):
        torch.testing.assert_close(mine, expected, **bounds.near())


@pytest.mark.parametrize("include_pos", [True, False])
def test_the_network_equals_the_dense_formula_with_gradients(include_pos):
    image, text = (double(side).requires_grad_() for side in random_pairs(14))
    g = torch.Generator().manual_seed(0)
    shapes = [(14, 5), (14, 5), (5,), (1,)]
    network = [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]
    rows, cols, out, bias = network
    w = (torch.tanh(rows[:, None] + cols) @ out + bias).sigmoid()
    scale, weights = double(4.0).requires_grad_(), torch.rand(14, generator=g).double()
    values = [
        adaptive(image, text, network, scale, weights, include_pos),
        dense(image, text, w, scale, weights, include_pos, network=True),
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    for mine, expected in zip(*(torch.autograd.grad(v, [image, text, scale, *network]) for v in values)):
        torch.testing.assert_close(mine, expected, **bounds.near())


def test_a_network_that_says_the_same_of_all_is_clip():
    pairs = random_pairs(9)
    network = [torch.zeros(9, 2).double(), torch.zeros(9, 2).double(), torch.ones(2).double(), double([-3.0])]
    value = adaptive(*map(double, pairs), network, double(5.0), torch.ones(9).double(), True)
    assert value.item() == pytest.approx(evaluate("clip", pairs, 0.2).item(), rel=1e-12)


def test_the_other_sign_turns_the_networks_gradient_alone():
    found = []
    for sign in (1, -1):
        torch.manual_seed(0)
        objective = build("meow_adaptive", {"sign": sign})
        objective.setup(Facts(width=8))
        features = batch(random_pairs(10), 0.3)
        value = objective.double()(**{name: features[name] for name in objective.needs})
        leaves = [features["image"], *objective.parameters()]
        found.append((value.item(), torch.autograd.grad(value, leaves)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1][0], found[1][1][0])
    for one, other in zip(found[0][1][1:], found[1][1][1:]):
        assert torch.equal(one, -other)
        assert one.abs().sum() > 0


def test_samples_of_their_own_are_clip_and_the_decoupled_loss():
    pairs = random_pairs(9)
    own = torch.arange(9)[:, None]
    values = {
        flag: contrast(*map(double, pairs), shared_clusters(own), double(5.0), torch.ones(9).double(), flag).item()
        for flag in (True, False)
    }
    assert values[True] == pytest.approx(evaluate("clip", pairs, 0.2).item(), rel=1e-12)
    assert values[False] == pytest.approx(evaluate("dcl", pairs, 0.2).item(), rel=1e-9)
    nothing = evaluate("meow_given", pairs, 0.2, tags=torch.full((9, 2), -1))
    assert nothing.item() == pytest.approx(values[True], rel=1e-12)


def test_negatives_that_share_all_clusters_have_no_gradient():
    image, text = map(double, CARD)
    text = text.requires_grad_()
    ids = torch.tensor([[0], [0], [1]])
    first = contrast(image, text, shared_clusters(ids), double(2.0), double([1.0, 0, 0]), False)
    assert torch.autograd.grad(first, text)[0][1].abs().sum() == 0
    alike = contrast(image, text, shared_clusters(ids * 0), double(2.0), torch.ones(3).double(), False)
    assert alike == 0  # such anchors are left out


def test_tags_weigh_by_what_share_they_have_in_common():
    tags = torch.tensor([[3, 7, -1], [7, 3, -1], [3, 8, 9], [5, -1, -1], [-1, -1, -1]])
    w = shared_tags(tags)(slice(0, 5), slice(0, 5)).exp()
    expected = [[0, 0, 2 / 3, 1, 1], [0, 0, 2 / 3, 1, 1], [2 / 3, 2 / 3, 0, 1, 1], [1, 1, 1, 0, 1], [1] * 5]
    torch.testing.assert_close(w, double(expected).to(w), rtol=0, atol=1e-6)
    partitions = torch.stack([IDS[:, 0], 10 + IDS[:, 1]], 1)
    assert evaluate("meow_given", CARD, 0.5, tags=partitions).item() == pytest.approx(0.556727, abs=bounds.printed(6))


def test_clusters_are_used_as_soon_as_there_are_some():
    """Two clusterings of image and text together, the weights of negatives, and the pull to the means."""
    torch.manual_seed(0)
    objective = build("meow", {"clusters": [3, 2], "refresh": 1, "proto": 0.3, "tau_proto": 0.2})
    objective.setup(Facts(samples=64, width=8, batch=16))
    pairs = random_pairs(16)
    features = batch(pairs, 0.2, index=torch.arange(16))
    values, kept = [], []
    for _ in "ab":
        values.append(objective.double()(**{name: features[name] for name in objective.needs}))
        kept = [[x.clone() for x in (c.means, c.counts, c.spreads)] for c in objective.clustering]
        objective.after_step()
    assert values[0].item() == pytest.approx(evaluate("clip", pairs, 0.2).item(), rel=1e-12)
    image, text = map(double, pairs)
    both = torch.nn.functional.normalize(image + text, dim=1)
    ids = [torch.cdist(both, means).argmin(1) for means, _, _ in kept]
    w = sum((a[:, None] != a).double() for a in ids) / 2
    expected = dense(image, text, w, 5.0, torch.ones(16).double())
    for a, (means, counts, spreads) in zip(ids, kept):
        c, raw = torch.nn.functional.normalize(means, dim=1), spreads / (counts + 10).log()
        raw = torch.where(counts > 1, raw, raw.max())
        raw = raw.clamp(raw.quantile(0.1), raw.quantile(0.9))
        phi = 0.2 * raw / raw.mean()
        pull = sum(torch.nn.functional.cross_entropy(x @ c.T / phi, a) for x in (image, text)) / 2
        expected = expected + 0.3 * pull / 2
    assert values[1].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("key", "fields", "message"),
    [
        ("meow", {"clusters": []}, "at least one number of clusters"),
        ("meow", {"tau_proto": 0.0}, "tau_proto above 0"),
        ("meow_adaptive", {"sign": 2}, "sign is 1 or -1"),
    ],
)
def test_what_cannot_be_is_refused(key, fields, message):
    with pytest.raises(ConfigError, match=message):
        build(key, fields)


def test_weights_only_add_to_the_loss():
    image, text = map(double, random_pairs(6))
    values = [
        contrast(image, text, lambda r, c, w=w: torch.full((r.stop - r.start, c.stop - c.start), math.log(w)).double(),
                 double(5.0), torch.ones(6).double(), True).item()
        for w in (0.1, 0.5, 1.0)
    ]  # fmt: skip
    assert values == sorted(values)
