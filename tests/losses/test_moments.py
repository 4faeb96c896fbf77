"""Means of Gaussian kernels over all pairs, of vectors of any length."""

import math

import pytest
import torch

from mmclr.losses.moments import log_kernels, log_mean_kernel
from tests import bounds
from tests.losses.test_algebra import units


def vectors(n, seed=0, size=1.0, far=0.0, D=5):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * size + far).requires_grad_()


def dense(x, y, t):
    return -t * (x[:, None] - y).square().sum(2)


@pytest.mark.parametrize(("size", "far", "t"), [(1.0, 0.0, 0.5), (3.0, 0.0, 1.0), (1.0, 1e4, 1.0), (40.0, 0.0, 2.0)])
def test_kernels_of_any_length_equal_the_distances(size, far, t):
    x, y = vectors(30, 0, size, far), vectors(30, 1, size, far)
    z, off = dense(x, y, t), torch.eye(30).bool()
    cases = [
        (log_kernels(x, y, t), z.logsumexp(1)),
        (log_kernels(x, y, t, itself=False), z.masked_fill(off, -torch.inf).logsumexp(1)),
        (log_mean_kernel(x, y, t, unit=False, itself=True), z.flatten().logsumexp(0) - math.log(900)),
        (log_mean_kernel(x, y, t, unit=False), z[~off].logsumexp(0) - math.log(870)),
    ]
    worst = 1 + z.abs().max().item()
    limit = bounds.bound(torch.float64, terms=64, size=worst) + 1e-12 * far
    for found, expected in cases:
        torch.testing.assert_close(found, expected, rtol=0, atol=limit)
        slopes = [torch.autograd.grad(value.sum(), (x, y), retain_graph=True) for value in (found, expected)]
        for mine, other in zip(*slopes):
            torch.testing.assert_close(mine, other, rtol=0, atol=100 * limit)


def test_sides_may_have_other_numbers_of_rows():
    x, y = vectors(7), vectors(12, 1)
    found = log_mean_kernel(x, y, 0.5, unit=False, itself=True)
    assert found.item() == pytest.approx(dense(x, y, 0.5).exp().mean().log().item(), rel=1e-12)
    assert log_mean_kernel(x, y[:0], 0.5, unit=False, itself=True) == 0


def test_unit_vectors_are_vectors_too():
    x, y = units(9), units(9, seed=1)
    for itself in (False, True):
        plain, general = (log_mean_kernel(x, y, 2.0, unit=unit, itself=itself) for unit in (True, False))
        assert plain.item() == pytest.approx(general.item(), rel=1e-12)


def test_equal_vectors_have_a_kernel_of_1():
    x = torch.full((6, 3), 5.0, requires_grad=True)
    found = log_mean_kernel(x, x, 1.0, unit=False)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(0, abs=bounds.bound(torch.float64, terms=8, size=75))
    assert torch.autograd.grad(found, x)[0].abs().max() < 1e-12
