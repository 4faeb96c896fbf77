"""Blank rows are no samples: with them anywhere in a batch, on any rank, nothing is another than without them."""

import pytest
import torch

from mmclr import parallel, vocabulary
from mmclr.losses import blank, moments
from mmclr.losses.algebra import groups
from tests import bounds
from tests.laws.objectives import CASES, NAMES, close, features, gradients, make
from tests.laws.test_data_parallel import train
from tests.ranks import run

every_case = pytest.mark.parametrize(("key", "fields"), CASES, ids=NAMES)
WEIGHTS = ("weights", "shares", "caption_shares")


def with_blanks(inputs, at, fill):
    """Return the features with blank rows at the places `at`, full of zeros or of noise, and which rows are real."""
    rows = {name: x for name, x in inputs.items() if vocabulary.FEATURES[name].per_sample}
    real = torch.ones(len(next(iter(rows.values()))) + len(at), dtype=torch.bool)
    real[list(at)] = False
    generator, more = torch.Generator().manual_seed(9), dict(inputs)
    for name, x in rows.items():
        more[name] = whole = x.new_full((len(real), *x.shape[1:]), -1 if not x.is_floating_point() else 0)
        if x.is_floating_point() and name not in WEIGHTS and fill == "noise":
            whole.copy_(torch.randn(whole.shape, generator=generator))
        if x.is_floating_point() and name not in WEIGHTS and fill == "nan":
            whole.fill_(torch.nan)
        whole[real] = x.detach()
        whole.requires_grad_(x.requires_grad)
    return more | {"real": real}, real


def take(objective, inputs):
    """Return the value, the gradients and the state after two steps."""
    for number in range(2):
        torch.manual_seed(number)
        value = objective(**inputs)
        own = {f"own {name}": p for name, p in objective.named_parameters() if p.requires_grad}
        found = gradients(value, {**inputs, **own})
        objective.after_step()
    return value.detach(), found, objective.state_dict()


@every_case
@pytest.mark.parametrize("fill", ["noise", "nan"])
def test_blank_rows_change_nothing_to_the_bit(key, fields, fill):
    inputs = features(make(key, fields), b=7)
    value, grads, state = take(make(key, fields), inputs)
    more, real = with_blanks(inputs, (0, 3, 4, 10), fill)
    with_them, more_grads, more_state = take(make(key, fields), more)
    assert torch.equal(with_them, value)
    for name, gradient in more_grads.items():
        if name in more and vocabulary.FEATURES[name].per_sample:
            assert not gradient[~real].any(), f"a blank row has a gradient in {name}"
            gradient = gradient[real]
        assert torch.equal(gradient, grads[name]), name
    assert all(torch.equal(more_state[name], kept) for name, kept in state.items())


@every_case
def test_weights_and_ids_tell_as_well_which_rows_are_blank(key, fields):
    """Who calls an objective by hand need not say `real`, where the objective asks for weights."""
    inputs = features(make(key, fields), b=7)
    if "weights" not in inputs:
        pytest.skip("asks for nothing that tells")
    more, _ = with_blanks(inputs, (2, 8), "noise")
    del more["real"]
    torch.manual_seed(0)
    value = make(key, fields)(**inputs)
    torch.manual_seed(0)
    assert torch.equal(make(key, fields)(**more), value)


@every_case
def test_nothing_but_blank_rows_is_nothing(key, fields):
    """Value 0, gradients 0 for all, and no state moves."""
    inputs, objective = features(make(key, fields), b=7), make(key, fields)
    take(objective, inputs)
    before = {name: kept.clone() for name, kept in objective.state_dict().items()}
    nothing, real = with_blanks(
        {n: x[:0] if vocabulary.FEATURES[n].per_sample else x for n, x in inputs.items()}, range(5), "nan"
    )
    assert not real.any()
    value, grads, state = take(objective, nothing)
    assert value == 0
    assert not any(gradient.any() for gradient in grads.values())
    assert all(torch.equal(state[name], kept) for name, kept in before.items())


@pytest.mark.dist
@every_case
def test_blank_rows_on_ranks_change_nothing(key, fields):
    """First ranks have more and fewer of them, then one has nothing else."""
    _compare_ranks(key, fields, 2, [(1, 5, 6, 8), range(8, 16)])


@pytest.mark.dist
@pytest.mark.parametrize("key", ["cl2l", "ctvis", "isogclr", "mlcd", "swav", "whitened_cse", "wscol"])
def test_blank_rows_on_four_ranks_change_nothing(key):
    """Half of the ranks have nothing else, then two have some."""
    _compare_ranks(key, {}, 4, [(*range(4), *range(8, 12)), (2, 6, 7, 8)])


def _compare_ranks(key, fields, world, at):
    steps = [{n: x.detach() for n, x in features(make(key, fields), b=8, seed=s).items()} for s in (5, 6)]
    more = [with_blanks(inputs, where, "noise") for inputs, where in zip(steps, at)]
    alone = train(key, fields, steps, torch.float64)
    for seen in run(world, train, key, fields, [inputs for inputs, _ in more], torch.float64):
        for name, value in seen.items():
            number, _, what = name.partition(" ")
            real = more[int(number)][1]
            value = value[real] if what.startswith("rows of") else value
            assert close(value, alone[name], 1e-12), f"{name}: {value} is not {alone[name]}"


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
