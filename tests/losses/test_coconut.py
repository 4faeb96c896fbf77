"""coconut: the card's losses, samples of new classes, and what there is to replay."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.errors import UserError
from mmclr.losses import build
from mmclr.losses.soft.coconut import nspt
from tests import bounds
from tests.losses.cards import batch, random_pairs

STUDENT, TEACHER = [(1, 0), (0, 1), (0.6, 0.8)], [(0.8, 0.6), (-0.6, 0.8), (1, 0)]
LABELS = torch.tensor([0, 0, 1])


def call(pairs, frozen, label, replayed, fields=None):
    features = batch(pairs)
    before = (torch.tensor(side, dtype=torch.float64) for side in frozen)
    features |= dict(zip(("frozen_image", "frozen_text"), before))
    features |= {"label": torch.as_tensor(label), "replayed": torch.as_tensor(replayed)}
    objective = build("coconut", {"tau": 0.5, **(fields or {})})
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_losses_of_the_card():
    student, teacher = (torch.tensor(side, dtype=torch.float64) for side in (STUDENT, TEACHER))
    each = nspt(student, teacher, LABELS, 0.5)
    assert each.tolist() == pytest.approx([2.260373, 1.190924, 1.551251], abs=bounds.printed(6))
    for replayed, expected in (([True] * 3, 1.667516), ([True, True, False], 1.725648)):
        value, _ = call((STUDENT, STUDENT), (TEACHER, TEACHER), LABELS, replayed)
        assert value.item() == pytest.approx(expected, abs=bounds.printed(6))


@pytest.mark.parametrize("exclude_self", [False, True])
def test_equal_to_the_matrices_written_out(exclude_self):
    b, pairs, frozen = 15, random_pairs(15), random_pairs(15, seed=1)
    g = torch.Generator().manual_seed(0)
    label, replayed = torch.randint(0, 4, (b,), generator=g), torch.rand(b, generator=g) < 0.5
    value, features = call(pairs, frozen, label, replayed, {"exclude_self": exclude_self, "tau": 0.2})
    total, equal = 0, (label[:, None] == label).double()
    for name in ("image", "text"):
        a, before = features[name], features[f"frozen_{name}"]
        s = (a @ a.T / 0.2).masked_fill(torch.eye(b).bool() & exclude_self, -torch.inf)
        near = ((a @ before.T / 0.2) * equal).sum(1) / equal.sum(1)
        total = total + (s.logsumexp(1) - near)[replayed].mean() / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-12)
    both = (features["image"], features["text"])
    for mine, other in zip(torch.autograd.grad(value, both), torch.autograd.grad(total, both)):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_nothing_replayed_is_nothing():
    value, features = call(random_pairs(6), random_pairs(6, seed=1), [0, 0, 1, 1, 2, 2], [False] * 6)
    assert value.item() == 0
    assert not torch.autograd.grad(value, features["image"])[0].any()


def test_samples_that_are_new_are_only_pushed_away():
    """A step against the gradient of a new sample lowers its similarity to every replayed one that it has a part in."""
    value, features = call(random_pairs(6), random_pairs(6, seed=1), [0, 0, 1, 1, 2, 3], [True] * 4 + [False] * 2)
    a = features["image"]
    slope = torch.autograd.grad(value, a)[0][4]
    s = (a @ a.T / 0.5).detach()
    pushed = (s.softmax(1)[:4, 4, None] * a[:4].detach()).sum(0) / 0.5 / 4 / 2
    torch.testing.assert_close(slope, pushed, **bounds.near())


def test_of_one_model_it_is_supervised_contrast_with_oneself():
    pairs, label = random_pairs(8), torch.arange(8) // 2
    value, features = call(pairs, pairs, label, [True] * 8)
    total = 0
    for name in ("image", "text"):
        logs = (features[name] @ features[name].T / 0.5).log_softmax(1)
        equal = label[:, None] == label
        total = total - (logs.where(equal, 0).sum(1) / equal.sum(1)).mean() / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-12)


def test_it_can_be_negative():
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert nspt(a * 0.1, a * 3, torch.tensor([0]), 0.1).item() < 0
    assert F.relu(nspt(a, a, torch.tensor([0]), 0.1, exclude_self=True)).item() == 0


def test_a_teacher_of_another_width_is_refused():
    with pytest.raises(UserError, match="coconut compares the model's image features .* they have 8 and 5 numbers"):
        call(random_pairs(5), random_pairs(5, D=5), torch.arange(5), [True] * 5)
