"""Plain numbers and lists in place of tensors: as exact as the features that they stand beside."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import algebra, build, catalogue
from mmclr.losses.algebra import tiles
from mmclr.losses.diagnostics import diagnose, fixed_negatives_loss
from tests import bounds
from tests.laws.objectives import features, make

SCALE, BIAS = 14.3, -9.7  # neither is a number of float32


def units(n, seed, dtype=torch.float64):
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=1).to(dtype)


def numpy_clip(x, y, scale):
    s = scale * x.numpy() @ y.numpy().T
    lse = [np.log(np.exp(s).sum(axis)) - s.diagonal() for axis in (0, 1)]
    return np.mean(lse)


def test_clip_of_a_plain_scale_is_exact():
    x, y = units(9, 0), units(9, 1)
    value = build("clip", {})(
        image=x, text=y, scale=SCALE, image_id=list(range(9)), caption_id=np.arange(9), weights=[1] * 9
    )
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(numpy_clip(x, y, SCALE), abs=bounds.bound(torch.float64, terms=32, size=SCALE))


def test_siglip_of_plain_scale_and_bias_is_exact():
    x, y = units(9, 0), units(9, 1)
    logits = SCALE * x.numpy() @ y.numpy().T + BIAS
    sign = 1 - 2 * np.eye(9)
    expected = np.logaddexp(0, sign * logits).sum() / 9
    ids = torch.arange(9)
    value = build("siglip", {})(
        image=x, text=y, scale=SCALE, bias=BIAS, image_id=ids, caption_id=ids, weights=[2.0] * 9
    )
    assert value.item() == pytest.approx(expected, abs=bounds.bound(torch.float64, terms=32, size=SCALE))


@pytest.mark.parametrize("key", sorted(catalogue()))
def test_every_objective_takes_numbers_and_lists(key):
    """The same value to the last bit as of tensors: scale, bias, progress and weights."""
    inputs = {name: x.detach() for name, x in features(make(key, {}), b=7).items()}
    plain = {
        n: x.item() if x.dim() == 0 else x.tolist() if n in ("weights", "index", "label") else x
        for n, x in inputs.items()
    }
    values = []
    for given in (inputs, plain):
        torch.manual_seed(0)
        values.append(make(key, {})(**given))
    assert values[0].dtype == values[1].dtype == torch.float64
    assert torch.equal(*values)


PRIMITIVES = {
    "dual_lse": lambda x, y, s: algebra.dual_lse(x, y, s).row,
    "pair_sum": lambda x, y, s: algebra.pair_sum(x, y, s, s - 20).total,
    "expected": lambda x, y, s: algebra.expected(x, y, s).row,
    "weighted": lambda x, y, s: algebra.weighted(x, y, lambda r, c: x[r] @ y[c].T, s).row,
    "top": lambda x, y, s: algebra.top(x, y, 2, s).values,
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_take_numbers(name):
    x, y = units(5, 0), units(6, 1)
    exact = PRIMITIVES[name](x, y, torch.tensor(SCALE, dtype=torch.float64))
    assert torch.equal(PRIMITIVES[name](x, y, SCALE), exact)
    assert torch.equal(PRIMITIVES[name](x, y, np.float64(SCALE)), exact)
    assert PRIMITIVES[name](x, y, 14).dtype == torch.float64


@pytest.mark.parametrize("name", PRIMITIVES)
def test_sides_of_two_types_are_those_of_the_wider(name):
    x, y = units(5, 0, torch.float32), units(6, 1)
    mixed = PRIMITIVES[name](x, y, SCALE) if name != "weighted" else None
    if mixed is not None:
        assert torch.equal(mixed, PRIMITIVES[name](x.double(), y, SCALE))


def test_a_number_keeps_its_digits():
    assert tiles.as_number(SCALE, units(1, 0)).item() == SCALE
    assert tiles.as_number(torch.tensor(SCALE), units(1, 0)).dtype == torch.float64


def test_diagnostics_take_numbers():
    x, y = units(9, 0), units(9, 1)
    scale = torch.tensor(SCALE, dtype=torch.float64)
    assert diagnose(x, y, SCALE) == diagnose(x, y, scale)
    assert fixed_negatives_loss(x, y, SCALE) == pytest.approx(
        numpy_clip(x, y, SCALE), abs=bounds.bound(torch.float64, terms=32, size=SCALE)
    )
