"""whitened_cse: the card's whitened features, what whitening promises, its derivative, and running statistics."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.heads.whitening import Whiten, moments, whiten
from mmclr.losses import Facts, build
from tests import bounds
from tests.losses.cards import batch, random_pairs
from tests.ranks import run

X = torch.tensor([(1, 2), (2, 1), (0, -1), (-3, -2)], dtype=torch.float64)
X4 = torch.tensor([(1, 2, 0, 1), (2, 1, 1, -1), (0, -1, 2, 0), (-3, -2, -3, 0)], dtype=torch.float64)


def whitened(x, shuffle, group, eps=0.0):
    mean, covariance = moments(x)
    return whiten(x - mean, covariance, torch.as_tensor(shuffle), group, eps)


def test_the_numbers_of_the_card():
    expected = [(-0.191990, 1.600981), (1.183094, 0.016953), (0.522358, -1.061669), (-1.513463, -0.556265)]
    torch.testing.assert_close(moments(X)[1], torch.tensor([[3.5, 2.5], [2.5, 2.5]]).double())
    torch.testing.assert_close(whitened(X, [0, 1], 2), torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6))
    plain, shuffled = whitened(X4, [0, 1, 2, 3], 2), whitened(X4, [0, 2, 1, 3], 2)
    more = [(0.074922, 1.438214), (0.464228, -1.363292), (1.078300, 0.149844), (-1.617451, -0.224766)]
    torch.testing.assert_close(
        plain, torch.cat([torch.tensor(v).double() for v in (expected, more)], 1), rtol=0, atol=bounds.printed(6)
    )
    rows = [
        (0.777350, 1.181211, -0.377350, 1.245837),
        (1.177350, 0.741813, 0.022650, -1.548251),
        (-0.754701, -0.641008, 1.554701, 0.100805),
        (-1.2, -1.282016, -1.2, 0.201610),
    ]
    torch.testing.assert_close(shuffled, torch.tensor(rows).double(), rtol=0, atol=bounds.printed(6))
    cosines = F.cosine_similarity(plain, shuffled)
    assert cosines.tolist() == pytest.approx([0.843596, 0.908879, 0.666372, 0.902516], abs=bounds.printed(6))


@pytest.mark.parametrize("group", [1, 3, 12])
def test_groups_have_mean_0_and_covariance_1(group):
    x = torch.randn(60, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64) + 3
    shuffle = torch.randperm(12)
    y = whitened(x, shuffle, group)
    torch.testing.assert_close(y.mean(0), torch.zeros(12).double(), rtol=0, atol=1e-9)
    for at in shuffle.view(-1, group):
        torch.testing.assert_close(y[:, at].T @ y[:, at] / 60, torch.eye(group).double(), rtol=0, atol=1e-9)


def test_what_whitening_does_not_see():
    """A shift, a scale, with groups of 1 the shuffle; and nothing happens to what is white."""
    x, shuffle = torch.randn(40, 6, dtype=torch.float64), torch.randperm(6)
    y = whitened(x, shuffle, 3, 1e-3)
    torch.testing.assert_close(whitened(5 * x + 2, shuffle, 3, 1e-3), y)
    torch.testing.assert_close(whitened(x, shuffle, 1), whitened(x, range(6), 1))
    white = whitened(x, range(6), 6)
    torch.testing.assert_close(whitened(white, range(6), 6), white)


def test_the_derivative_does_not_mind_equal_eigenvalues():
    x = torch.randn(30, 4, dtype=torch.float64)
    white = whitened(x, range(4), 4).requires_grad_()  # all four are 1
    assert torch.autograd.gradcheck(lambda z: whitened(z, [2, 0, 3, 1], 2, 1e-3), white, atol=bounds.bound(terms=16))


def test_rows_count_by_their_weights():
    x, weights = torch.randn(6, 3, dtype=torch.float64), torch.tensor([1, 1, 2, 0, 1, 1], dtype=torch.float64)
    several = x[[0, 1, 2, 2, 4, 5]]
    for found, expected in zip(moments(x, weights), moments(several)):
        torch.testing.assert_close(found, expected)
    views = torch.stack([x, x + 1], 1)
    for found, expected in zip(moments(views), moments(views.flatten(0, 1))):
        torch.testing.assert_close(found, expected)


def parts(x):
    return moments(parallel.own_rows(x))


@pytest.mark.dist
def test_ranks_share_their_statistics():
    x = torch.randn(12, 5, dtype=torch.float64)
    for found in run(2, parts, x):
        for mine, expected in zip(found, moments(x)):
            torch.testing.assert_close(mine, expected)


def ready(fields, width=8):
    torch.manual_seed(0)
    objective = build("whitened_cse", {"group": 4, **fields})
    objective.setup(Facts(width=width))
    return objective.double()


def call(objective, pairs, seed=3):
    torch.manual_seed(seed)
    features = batch(pairs, 0.5)
    return objective(**{name: features[name] for name in objective.needs}), features


def test_all_pairs_of_shuffles_are_contrasted():
    objective = ready({"copies": 2, "tail": False, "eps": 0.0})
    value, features = call(objective, random_pairs(20))
    torch.manual_seed(3)
    shuffles = [torch.randperm(8) for _ in range(2)]
    us, vs = (
        [F.normalize(whitened(features[side].detach(), s, 4), dim=1) for s in shuffles] for side in ("image", "text")
    )
    logits = [2 * u @ v.T for u in us for v in vs]
    expected = sum(F.cross_entropy(m, torch.arange(20)) for z in logits for m in (z, z.T)) / 8
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_constant_matrix_has_another_gradient():
    grads = [
        torch.autograd.grad(*(lambda v, f: (v, f["image"]))(*call(ready({"detach": d}), random_pairs(20))))[0]
        for d in (True, False)
    ]
    assert not torch.allclose(*grads, rtol=1e-3)


def test_in_use_running_statistics_stand_for_the_batch():
    """After one step they are its own; a row alone is mapped as among others."""
    objective = ready({"copies": 1, "tail": True, "momentum": 0.5})
    head = objective.head
    _, features = call(objective, random_pairs(30))
    assert torch.equal(head.image_mean, torch.zeros(8).double())
    objective.after_step()
    x = features["image"].detach()
    torch.testing.assert_close(head.image_covariance, moments(x)[1])
    objective.eval()
    y = F.normalize(head.image(whitened(x, range(8), 4, 1e-4)).tanh(), dim=1)
    torch.testing.assert_close(head(x, "image"), y)
    torch.testing.assert_close(head(x[4:5], "image"), y[4:5])
    objective.train()
    _, features = call(objective, random_pairs(30, seed=1))
    objective.after_step()
    both = (moments(x)[0] + moments(features["image"].detach())[0]) / 2
    torch.testing.assert_close(head.image_mean, both)


def test_an_embedding_that_cannot_be_cut_is_told():
    with pytest.raises(ConfigError, match="8 features cannot be cut into groups of 3"):
        Whiten(group=3).make(8)
