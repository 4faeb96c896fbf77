"""Blank rows are no samples: with them anywhere in a batch, on any rank, nothing is another than without them."""

import pytest
import torch

from mmclr import parallel, vocabulary
from mmclr.losses import blank, moments
from mmclr.losses.algebra import groups
from tests import bounds
from tests.laws.objectives import features, make
from tests.ranks import run


def test_a_sample_of_weight_0_is_still_a_negative():
    """Its ids say that it is a sample."""
    inputs = features(make("clip", {}), b=6)
    weightless = inputs | {"weights": inputs["weights"].clone()}
    weightless["weights"][2] = 0
    value = make("clip", {})(**weightless)
    rest = torch.arange(6) != 2
    without = make("clip", {})(**{n: x[rest] if vocabulary.FEATURES[n].per_sample else x for n, x in inputs.items()})
    s = (inputs["scale"] * inputs["image"] @ inputs["text"].T).detach()
    same = (inputs["image_id"][:, None] == inputs["image_id"]) | (inputs["caption_id"][:, None] == inputs["caption_id"])
    s = s.masked_fill(same & ~torch.eye(6, dtype=torch.bool), -torch.inf)
    each = (s.logsumexp(1) + s.logsumexp(0)) / 2 - s.diagonal()
    by_hand = (each * weightless["weights"]).sum() / weightless["weights"].sum()
    torch.testing.assert_close(value.detach(), by_hand, **bounds.near())
    assert abs(value - without) > 1e-4


@pytest.mark.parametrize(
    ("found", "real"),
    [
        ({"weights": [1.0, 0.0]}, [True, False]),
        ({"weights": [0.0, 0.0], "image_id": [3, -1], "caption_id": [-1, -1]}, [True, False]),
        ({"weights": [0.0, 0.0], "label": [-1, 4]}, [False, True]),
        ({"weights": [0.0, 0.0, 0.5], "index": [5, -1, -1]}, [True, False, True]),
        ({"weights": [0.0, 0.0], "index": [5, -1], "image_id": [-1, 7]}, [False, False]),
        ({"weights": [0.0, 0.0], "clusters": [[-1, 2], [-1, -1]]}, [True, False]),
        ({"index": [0, -1]}, [True, False]),
    ],
)
def test_what_is_blank(found, real):
    told = vocabulary.real({name: torch.tensor(x) for name, x in found.items()})
    assert told.tolist() == real


def test_without_weights_and_numbers_nothing_is_blank():
    assert vocabulary.real({"image": torch.zeros(3, 2), "label": torch.tensor([-1, -1, 2])}) is None


def test_a_gate_in_a_gate_lets_everything_through():
    with blank.samples_alone({"image": torch.arange(3.0)[:, None], "real": torch.tensor([True, False, True])}) as kept:
        assert kept.features["image"].flatten().tolist() == [0, 2]
        with blank.samples_alone(kept.features | {"weights": torch.zeros(2)}) as inner:
            assert inner.features["image"].flatten().tolist() == [0, 2]


def of_rank(counts):
    """What ranks with these numbers of rows find out, and what their collectives make of them."""
    own = torch.arange(counts[parallel.rank()], dtype=torch.float64)[:, None] + 10 * parallel.rank()
    own.requires_grad_()
    rows = parallel.rows_of(len(own))
    every = rows.gather(own)
    factors = torch.arange(rows.total, dtype=torch.float64)[:, None]
    (back,) = torch.autograd.grad((every * factors).sum(), own)
    part = rows.reduce_scatter(factors)
    mean = parallel.mean(own).detach()
    return rows.counts, every.detach().flatten().tolist(), back.flatten().tolist(), part.flatten().tolist(), float(mean)


@pytest.mark.dist
@pytest.mark.parametrize("counts", [(2, 0, 3, 1), (1, 1, 1, 1), (0, 0, 0, 2), (0, 0, 0, 0)])
def test_ranks_may_hold_different_numbers_of_rows(counts):
    every = [10 * rank + i for rank, count in enumerate(counts) for i in range(count)]
    first = 0
    for rank, found in enumerate(run(4, of_rank, counts)):
        own = [4.0 * (first + i) for i in range(counts[rank])]
        assert found == (counts, every, own, own, pytest.approx(sum(every) / max(1, len(every))))
        first += counts[rank]


def test_what_has_no_id_equals_nothing_but_itself():
    numbers, count = groups(torch.tensor([5, -1, 7, -1, 5, -1]))
    assert count == 5
    assert len(set(numbers.tolist())) == 5
    assert numbers[0] == numbers[4]
    assert sorted(set(numbers.tolist())) == list(range(5))
    x = torch.eye(3, dtype=torch.float64)
    assert torch.isnan(moments.tolerance(x, torch.tensor([-1, -1, 2])))
