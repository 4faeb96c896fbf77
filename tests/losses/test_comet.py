"""comet: the card's numbers, the sums written out, what each level gives, and what has no group."""

import warnings

import numpy as np
import pytest
import torch

from mmclr.errors import UserError
from mmclr.losses import build
from mmclr.losses.views.comet import paper_split
from tests import bounds
from tests.losses.cards import batch, random_pairs

CARD = ([(1, 0), (0.6, 0.8), (0, 1), (0.8, -0.6)], [(0.8, 0.6), (0, 1), (-0.6, 0.8), (0.6, -0.8)])
LEVELS = {"pair": 0.0, "by_group": 0.0, "by_origin": 0.0, "exclude_siblings": False}


def call(pairs, group, fields, tau=0.5, origin=None, **more):
    """Return the value and the features; every origin another unless one is given."""
    origin = torch.arange(len(group)) if origin is None else torch.as_tensor(origin)
    features = batch(pairs, tau, group=torch.as_tensor(group), origin=origin, **more)
    features["scale"].requires_grad_()
    objective = build("comet", {**LEVELS, **fields})
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_numbers_of_the_card():
    group = torch.tensor([7, 7, 9, 9])
    for fields, expected in (
        ({"pair": 1.0}, 0.777885),
        ({"by_group": 1.0}, 2.857885),
        ({"pair": 0.5, "by_group": 0.25}, 1.342782 - 0.25 * 0.957474),  # less the card's level of patches
    ):
        value, _ = call(CARD, group, fields)
        assert value.item() == pytest.approx(expected, abs=1.25 * bounds.printed(6))
    u, v = (torch.tensor(side, dtype=torch.float64) for side in CARD)
    assert paper_split(u @ v.T / 0.5, group).item() == pytest.approx(2.853627, abs=bounds.printed(6))


def test_the_papers_form_depends_on_the_order_and_ours_does_not():
    u, v = (torch.tensor(side, dtype=torch.float64) for side in CARD)
    group, turned = torch.tensor([7, 7, 9, 9]), [1, 0, 3, 2]
    one, other = paper_split(2 * u @ v.T, group), paper_split(2 * u[turned] @ v[turned].T, group)
    assert abs(one - other) > 0.001
    assert ((one + other) / 2).item() == pytest.approx(call(CARD, group, {"by_group": 1.0})[0].item(), rel=1e-12)
    assert paper_split(2 * u @ v.T, torch.tensor([-1, -1, 2, 3])) == 0


def by_hand(features, fields):
    """The levels in numpy, a pair at a time."""
    u, v, w = (features[name].detach().numpy() for name in ("image", "text", "weights"))
    group, origin, captions = (features[name].tolist() for name in ("group", "origin", "caption_id"))
    s = features["scale"].item() * u @ v.T
    b = len(s)

    def equal(ids, i, j):
        return i != j and ids[i] == ids[j] != -1

    def level(ids):
        of_rows, of_cols = np.log(np.exp(s).sum(1)), np.log(np.exp(s).sum(0))
        found = [(i, j) for i in range(b) for j in range(b) if equal(ids, i, j)]
        total = sum(w[i] * (of_rows[i] - s[i, j]) + w[j] * (of_cols[j] - s[i, j]) for i, j in found)
        return total / sum(w[i] + w[j] for i, j in found) if found else 0.0

    def clip(m):
        total = 0.0
        for i in range(b):
            among = [j for j in range(b) if not equal(captions, i, j)]
            among = [j for j in among if not (fields["exclude_siblings"] and equal(group, i, j))]
            total += w[i] * (np.log(np.exp(m[i, among]).sum()) - m[i, i])
        return total / w.sum()

    pair = (clip(s) + clip(s.T)) / 2
    return fields["pair"] * pair + fields["by_group"] * level(group) + fields["by_origin"] * level(origin)


@pytest.mark.parametrize("exclude", [True, False])
def test_equal_to_the_sums_written_out(exclude):
    g = torch.Generator().manual_seed(0)
    group, origin = (torch.randint(-1, n, (17,), generator=g) for n in (5, 2))
    weights = torch.rand(17, generator=g, dtype=torch.float64)
    captions = torch.tensor([0, 0, *range(1, 16)])
    fields = {"pair": 0.8, "by_group": 0.3, "by_origin": 0.2, "exclude_siblings": exclude}
    value, features = call(random_pairs(17), group, fields, 0.2, origin, weights=weights, caption_id=captions)
    assert value.item() == pytest.approx(by_hand(features, fields), rel=1e-12)


def test_gradients_of_a_level_equal_those_of_the_matrix():
    group = torch.tensor([3, 3, -1, 3, 5, -1, 5, 8])
    value, features = call(random_pairs(8), group, {"by_group": 1.0}, 0.2)
    image, text, scale = leaves = [features[name] for name in ("image", "text", "scale")]
    s = scale * image @ text.T
    same = (group[:, None] == group) & (group >= 0) & ~torch.eye(8).bool()
    dense = ((s.logsumexp(1, keepdim=True) + s.logsumexp(0, keepdim=True)) / 2 - s)[same].mean()
    assert value.item() == pytest.approx(dense.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(dense, leaves)):
        torch.testing.assert_close(mine, other, **bounds.near())


@pytest.mark.parametrize("group", [torch.arange(9), torch.full((9,), -1), torch.arange(9) - 1])
def test_without_siblings_levels_are_nothing_and_pairs_are_clips(group):
    """Samples without a group are no siblings of each other, nor excluded as such."""
    value, features = call(random_pairs(9), group, {"by_group": 1.0, "by_origin": 1.0}, origin=group)
    assert value.item() == 0
    leaves = [features[name] for name in ("image", "text", "scale")]
    assert not any(g.any() for g in torch.autograd.grad(value, leaves))
    value, features = call(random_pairs(9), group, {"pair": 1.0, "exclude_siblings": True})
    clip = build("clip", {})
    assert value.item() == pytest.approx(clip(**{name: features[name] for name in clip.needs}).item(), rel=1e-12)


def test_exchanging_images_and_captions_changes_nothing():
    u, v = random_pairs(9)
    group, fields = torch.arange(9) // 3, {"pair": 0.8, "by_group": 0.5}
    assert call((u, v), group, fields)[0].item() == pytest.approx(call((v, u), group, fields)[0].item(), rel=1e-12)


def test_one_group_of_equal_features_costs_the_logarithm_of_the_batch():
    pairs = ([(1, 0)] * 6, [(1, 0)] * 6)
    assert call(pairs, [4] * 6, {"by_group": 1.0})[0].item() == pytest.approx(np.log(6), rel=1e-12)


def test_siblings_are_no_negatives_of_each_other():
    """With pairs alone, a group's samples feel nothing of each other."""
    pairs, group = random_pairs(4), [2, 2, 2, 2]
    value, features = call(pairs, group, {"pair": 1.0, "exclude_siblings": True})
    assert value.item() == 0
    assert not torch.autograd.grad(value, features["image"])[0].any()
    assert call(pairs, group, {"pair": 1.0})[0].item() > 0.1


def test_a_batch_without_siblings_or_of_one_origin_is_told():
    pairs, apart = random_pairs(40), torch.arange(40)
    with pytest.warns(UserWarning, match="comet: no two of 40 samples are of one group, .*order=.use: siblings"):
        call(pairs, apart, {"by_group": 0.1})
    with pytest.warns(UserWarning, match="comet: all 40 samples are of one origin, .* set by_origin to 0"):
        call(pairs, apart, {"by_origin": 0.1}, origin=[0] * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(pairs, apart // 2, {"by_group": 0.1, "by_origin": 0.1}, origin=apart // 20)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(UserError, match="by_group is at least 0, not -1"):
        build("comet", {"by_group": -1.0})
