"""The engine equals its dense oracle on random cases, and is finite wherever the oracle is."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import algebra
from tests import bounds
from tests.losses.cases import PRIMITIVES, check


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_random_cases(primitive):
    for seed in range(60):
        check(primitive, seed)


def test_a_hard_softmax_adds_up_to_one():
    """Of one column the mean is that cosine, so its slope is y: a rounded denominator times the scale is no part of it.

    Denominators are kept as logarithms: at a scale of 200 float32 rounds them by 1e-5, which times 200 was seen.
    """
    generator, scale = torch.Generator().manual_seed(0), 200.0
    x, y = (F.normalize(torch.randn(rows, 8, generator=generator), dim=1).requires_grad_() for rows in (40, 1))
    algebra.expected(x, y, scale).row.sum().backward()
    limit = bounds.bound(terms=4, size=scale)
    torch.testing.assert_close(x.grad, y.detach().expand(40, 8), rtol=0, atol=limit)
    torch.testing.assert_close(y.grad, x.detach().sum(0, keepdim=True), rtol=0, atol=limit * 40)


@pytest.mark.slow
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_many_random_cases(primitive):
    for seed in range(400):
        check(primitive, 1000 + seed)
