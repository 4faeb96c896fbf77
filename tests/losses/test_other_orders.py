"""The engine under the roundings of other CPUs: sums in other orders, functions of another library."""

import pytest
import torch

from tests import bounds
from tests.losses.cases import PRIMITIVES, check
from tests.other_orders import OtherOrders


@pytest.mark.parametrize("name", ["mm", "sum", "exp2", "logsumexp", "softmax"])
def test_the_orders_differ_and_are_the_same_each_time(name):
    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    work = {
        "mm": lambda: x @ x.T, "sum": lambda: x.sum(1), "exp2": lambda: x.clone().exp2_(),
        "logsumexp": lambda: x.logsumexp(1), "softmax": lambda: x.softmax(1),
    }[name]  # fmt: skip
    with OtherOrders():
        one, two = work(), work()
    assert torch.equal(one, two)
    assert not torch.equal(one, work())
    torch.testing.assert_close(one, work(), rtol=0, atol=bounds.bound(terms=300, size=400))  # sums of squares


@pytest.mark.slow
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_random_cases(primitive):
    with OtherOrders():
        for seed in range(100):
            check(primitive, seed)
