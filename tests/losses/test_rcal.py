"""rcal: the card's distance, the start, and whose gradient it has."""

import pytest
import torch

from mmclr.errors import UserError
from mmclr.losses import build
from tests.losses.cards import batch, random_pairs


def call(pairs, frozen, **fields):
    features = batch(pairs)
    before = (torch.tensor(side, dtype=torch.float64) for side in frozen)
    features |= dict(zip(("frozen_image", "frozen_text"), before))
    features["frozen_image"].requires_grad_()
    objective = build("rcal", fields)
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_distance_of_the_card():
    value, features = call(([(0.6, 0.8)], [(0, 1)]), ([(1, 0)], [(0, 1)]))
    assert value.item() == pytest.approx(0.8 / 2)
    assert torch.autograd.grad(value, features["image"])[0][0].tolist() == pytest.approx([-0.4, 0.8])


def test_of_unit_vectors_it_is_the_cosines():
    pairs, frozen = random_pairs(9), random_pairs(9, seed=1)
    value, features = call(pairs, frozen, beta=3.0)
    cosines = sum((torch.tensor(a) * torch.tensor(b)).sum(1) for a, b in zip(pairs, frozen))
    assert value.item() == pytest.approx(3 * (2 - cosines).mean().item(), rel=1e-6)
    assert torch.autograd.grad(value, features["frozen_image"], allow_unused=True) == (None,)


def test_at_the_start_it_is_nothing():
    value, features = call(random_pairs(5), random_pairs(5))
    assert value.item() == 0
    assert not torch.autograd.grad(value, features["image"])[0].any()


def test_a_teacher_of_another_width_is_refused():
    with pytest.raises(UserError, match="rcal compares the model's image features .* they have 8 and 5 numbers"):
        call(random_pairs(5), random_pairs(5, D=5))
