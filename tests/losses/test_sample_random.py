"""Draws that belong to samples: their distribution, and what they depend on."""

import pytest
import torch
from scipy import stats

from mmclr import sample_random


@pytest.mark.parametrize(
    ("a", "b"), [(0.15, 0.15), (1.0, 1.0), (0.5, 0.9), (2.0, 8.0), (8.0, 2.0), (5.0, 5.0), (0.2, 3.0)]
)
def test_weights_follow_the_beta_distribution(a, b):
    found = sample_random.beta(torch.arange(4000), torch.tensor(12), a, b)
    assert stats.kstest(found.numpy(), stats.beta(a, b).cdf).pvalue > 0.01


@pytest.mark.parametrize(("a", "b"), [(2.0, 8.0), (0.3, 4.0)])
def test_the_table_is_off_by_less_than_one_of_its_steps(a, b):
    drawn = torch.linspace(0, 1 - 1e-9, 100_001, dtype=torch.float64)
    off = stats.beta(a, b).cdf(sample_random.to_beta(drawn, a, b).numpy()) - drawn.numpy()
    assert abs(off).max() <= 1 / sample_random.QUANTILES


def test_a_pair_has_its_number_wherever_it_is():
    rows, cols, seed = torch.tensor([5, 9, 1 << 40]), torch.tensor([9, 5, 77, 0]), torch.tensor(3)
    whole = sample_random.pair(rows, cols, seed)
    assert whole.shape == (3, 4)
    turned = sample_random.pair(rows.flip(0)[1:], cols.flip(0), seed)
    assert torch.equal(turned, whole.flip(0, 1)[1:])
    assert whole[0, 0] != whole[1, 1]  # (5, 9) and (9, 5)
    assert not torch.equal(sample_random.pair(rows, cols, seed + 1), whole)


def test_numbers_of_pairs_are_uniform_along_rows_and_columns():
    drawn = sample_random.pair(torch.arange(300), torch.arange(300), torch.tensor(8))
    off = ~torch.eye(300).bool()
    assert stats.kstest(drawn[off].numpy(), "uniform").pvalue > 0.01
    for values in (drawn.mean(0), drawn.mean(1)):
        assert stats.kstest(values.numpy(), stats.norm(0.5, (1 / 12 / 300) ** 0.5).cdf).pvalue > 0.01
    assert abs(torch.corrcoef(torch.stack([drawn[off], drawn.T[off]]))[0, 1]) < 4 / 300
