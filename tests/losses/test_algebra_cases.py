"""The engine equals its dense oracle on random cases, and is finite wherever the oracle is."""

import pytest

from tests.losses.cases import PRIMITIVES, check


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_random_cases(primitive):
    for seed in range(60):
        check(primitive, seed)


@pytest.mark.slow
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_many_random_cases(primitive):
    for seed in range(400):
        check(primitive, 1000 + seed)
