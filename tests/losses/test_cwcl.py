"""cwcl: worked numbers and what it becomes for special references."""

import pytest
import torch

from tests import bounds
from tests.losses.cards import GAP, evaluate, random_pairs


def dense(image, text, frozen, tau, kernel):
    """The paper's two sums with the B x B matrices written out."""
    s = torch.tensor(image, dtype=torch.float64) @ torch.tensor(text, dtype=torch.float64).T / tau
    w = kernel(frozen @ frozen.T)
    target = w / w.sum(1, keepdim=True)
    return -(target * s.log_softmax(1)).sum(1).mean() - s.T.log_softmax(1).diagonal().mean()


def references(b, R=5):
    x = torch.randn(b, R, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1)


def test_worked_number():
    frozen = torch.tensor(GAP[0], dtype=torch.float64)
    assert evaluate("cwcl", GAP, 0.5, frozen_image=frozen).item() == pytest.approx(2.238093, abs=bounds.printed(6))
    soft = evaluate("cwcl", GAP, 0.5, {"hard_weight": 0.0}, frozen_image=frozen)
    assert soft.item() == pytest.approx(1.330997, abs=bounds.printed(6))


@pytest.mark.parametrize(
    ("fields", "kernel"),
    [
        ({}, lambda c: (1 + c) / 2),
        ({"kernel": "power", "width": 3.0}, lambda c: ((1 + c) / 2) ** 3),
        ({"kernel": "exp", "width": 0.2}, lambda c: ((c - 1) / 0.2).exp()),
    ],
    ids=["affine", "power", "exp"],
)
def test_equals_the_dense_form(fields, kernel):
    pairs, frozen = random_pairs(40), references(40)
    value = evaluate("cwcl", pairs, 0.1, fields, frozen_image=frozen)
    assert value.item() == pytest.approx(dense(*pairs, frozen, 0.1, kernel).item(), rel=1e-12)


def test_a_narrow_kernel_is_twice_infonce():
    pairs = random_pairs(12)
    value = evaluate("cwcl", pairs, 0.1, {"kernel": "exp", "width": 1e-3}, frozen_image=references(12))
    assert value.item() == pytest.approx(2 * evaluate("clip", pairs, 0.1).item(), rel=bounds.bound(terms=16))


def test_equal_references_are_a_uniform_target():
    pairs = random_pairs(12)
    s = torch.tensor(pairs[0], dtype=torch.float64) @ torch.tensor(pairs[1], dtype=torch.float64).T / 0.1
    value = evaluate("cwcl", pairs, 0.1, {"hard_weight": 0.0}, frozen_image=references(1).repeat(12, 1))
    assert value.item() == pytest.approx((s.logsumexp(1) - s.mean(1)).mean().item(), rel=1e-12)


def test_the_caption_anchored_form_is_the_same_with_the_sides_exchanged():
    (image, text), frozen = random_pairs(12), references(12)
    of_text = evaluate("cwcl_text", (image, text), 0.1, frozen_text=frozen)
    assert of_text.item() == pytest.approx(evaluate("cwcl", (text, image), 0.1, frozen_image=frozen).item(), rel=1e-12)


def test_no_gradient_reaches_the_references():
    frozen = references(6).requires_grad_()
    evaluate("cwcl", random_pairs(6), 0.1, frozen_image=frozen).backward()
    assert frozen.grad is None
