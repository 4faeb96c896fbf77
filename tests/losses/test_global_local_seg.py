"""group_clip: the card's numbers, the sums written out, who is a negative, and what has no group."""

import numpy as np
import pytest
import torch

from mmclr.losses import build
from tests import bounds
from tests.losses.cards import batch, random_pairs

CARD = ([(1, 0), (0.6, 0.8), (0, 1), (0.8, -0.6)], [(0.8, 0.6), (0, 1), (-0.6, 0.8), (0.6, -0.8)])
MODES = ("exclude", "attract")


def call(pairs, group, mode="exclude", tau=0.5, **more):
    features = batch(pairs, tau, group=torch.as_tensor(group), **more)
    features["scale"].requires_grad_()
    objective = build("group_clip", {"mode": mode})
    return objective(**{name: features[name] for name in objective.needs}), features


@pytest.mark.parametrize(("mode", "expected"), [("exclude", 0.692792), ("attract", 1.426167)])
def test_the_numbers_of_the_card(mode, expected):
    value, _ = call(CARD, [0, 1, 0, 1], mode)
    assert value.item() == pytest.approx(expected, abs=bounds.printed(6))


def by_hand(features, mode):
    """Both directions in numpy, an anchor and a positive at a time."""
    u, v, w = (features[name].detach().numpy() for name in ("image", "text", "weights"))
    group, captions = features["group"].tolist(), features["caption_id"].tolist()
    s, total = features["scale"].item() * u @ v.T, 0.0
    for m in (s, s.T):
        for i, row in enumerate(m):
            kin = [j for j in range(len(m)) if j == i or group[j] == group[i] != -1]
            negatives = [j for j in range(len(m)) if j not in kin and captions[j] != captions[i]]
            positives = kin if mode == "attract" else [i]
            rest = np.exp(row[negatives]).sum()
            total += w[i] * np.mean([np.log(np.exp(row[p]) + rest) - row[p] for p in positives])
    return total / w.sum() / 2


@pytest.mark.parametrize("mode", MODES)
def test_equal_to_the_sums_written_out(mode):
    """With samples without a group, and equal captions in groups that differ."""
    g = torch.Generator().manual_seed(0)
    group, weights = torch.randint(-1, 5, (17,), generator=g), torch.rand(17, generator=g, dtype=torch.float64)
    captions = torch.randint(0, 12, (17,), generator=g)
    value, features = call(random_pairs(17), group, mode, 0.2, weights=weights, caption_id=captions)
    assert value.item() == pytest.approx(by_hand(features, mode), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_those_of_the_matrix(mode):
    group = torch.tensor([3, 3, -1, 3, 5, -1, 5, 8])
    value, features = call(random_pairs(8), group, mode, 0.2)
    image, text, scale = leaves = [features[name] for name in ("image", "text", "scale")]
    s, eye = scale * image @ text.T, torch.eye(8).bool()
    kin = (group[:, None] == group) & (group >= 0) | eye
    positive, dense = (kin if mode == "attract" else eye).double(), 0
    for m in (s, s.T):
        rest = m.masked_fill(kin, -torch.inf).logsumexp(1, keepdim=True)
        dense = dense + ((torch.logaddexp(m, rest) - m) * positive / positive.sum(1, keepdim=True)).sum() / 16
    assert value.item() == pytest.approx(dense.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(dense, leaves)):
        torch.testing.assert_close(mine, other, **bounds.near())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("group", [torch.arange(9), torch.full((9,), -1)])
def test_without_groups_in_common_it_is_clip(mode, group):
    value, features = call(random_pairs(9), group, mode)
    clip = build("clip", {})
    assert value.item() == pytest.approx(clip(**{name: features[name] for name in clip.needs}).item(), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_one_group_has_no_negatives(mode):
    value, features = call(random_pairs(6), [2] * 6, mode)
    assert value.item() == 0
    leaves = [features[name] for name in ("image", "text", "scale")]
    assert not any(g.any() for g in torch.autograd.grad(value, leaves))


def test_a_sample_of_the_group_changes_nothing_for_the_others_of_it():
    """The loss of each sample of group 0 stays as it is when one more comes that is a negative to group 1 alone."""
    u, v = random_pairs(6)
    group, weights = torch.tensor([0, 0, 0, 1, 1, 0]), torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.float64)
    few, _ = call((u[:5], v[:5]), group[:5], weights=weights[:5])
    more, features = call((u, v), group, weights=weights)
    assert more.item() == pytest.approx(few.item(), rel=1e-12)
    assert not torch.autograd.grad(more, features["text"])[0][5].any()


def test_a_batch_without_siblings_has_nothing_to_attract():
    with pytest.warns(UserWarning, match="group_clip: no two samples of a batch are of one group"):
        call(random_pairs(40), torch.arange(40), "attract")
