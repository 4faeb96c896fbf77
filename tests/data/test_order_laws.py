"""What holds for every order of the samples, whatever its idea; an order that is new is found by walking."""

import json
import pickle

import numpy as np
import pytest

from mmclr.config import check
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.data.stream.order import build, catalogue
from mmclr.errors import UserError
from tests.data.made import take, write_shards
from tests.data.streams import stream

BATCH = 8
ORDERS = catalogue()


def one(key, sizes=(203,), **more):
    """Return an order over made-up data, with the settings that it shows itself by."""
    order = build({"use": key, **ORDERS[key].example})
    order.setup(stream(list(sizes), batch=BATCH, **more))
    return order


def sizes_of(key):
    return [(203,)] if ORDERS[key].alone else [(203,), (40, 163)]


CASES = [(key, sizes) for key in ORDERS for sizes in sizes_of(key)]


@pytest.mark.parametrize(("key", "sizes"), CASES)
def test_an_order_is_a_function_of_the_position_alone(key, sizes):
    """Any part of the stream, in any order, is as in the whole: ranks, workers and a resumed run see the same."""
    order = one(key, sizes)
    positions = np.arange(3 * order.length)
    sample, epoch = order.at(positions)
    again = pickle.loads(pickle.dumps(order))
    for places in (positions[5::7], positions[::-1], np.random.default_rng(0).permutation(positions)[:50]):
        for made in (order, again, one(key, sizes)):
            assert made.at(places)[0].tolist() == sample[places].tolist()
            assert made.at(places)[1].tolist() == epoch[places].tolist()
    assert order.at(positions[:0])[0].shape == (0,)
    assert sample.dtype == epoch.dtype == np.int64
    assert 0 <= sample.min() <= sample.max() < sum(sizes)


@pytest.mark.parametrize(("key", "sizes"), CASES)
def test_no_sample_comes_twice_in_an_epoch_and_none_is_missing_that_is_promised(key, sizes):
    order = one(key, sizes)
    sample, epoch = order.at(np.arange(6 * order.length))
    source = np.searchsorted(np.cumsum(sizes), sample, side="right")
    for which in range(len(sizes)):
        mine, when = sample[source == which], epoch[source == which]
        assert key == "balanced" or (np.diff(when) >= 0).all()  # there each class has epochs of its own
        for number in range(when.max()):  # the last may not be over
            seen = mine[when == number]
            assert len(set(seen.tolist())) == len(seen)
            if order.whole:
                assert len(seen) == sizes[which]
        if when.max() > 1:
            assert mine[when == 0].tolist() != mine[when == 1].tolist()


@pytest.mark.parametrize(("key", "sizes"), CASES)
def test_the_seed_decides_and_is_no_part_of_the_identity(key, sizes):
    first, other = one(key, sizes, seed=1), one(key, sizes, seed=2)
    places = np.arange(100)
    assert first.at(places)[0].tolist() != other.at(places)[0].tolist()
    assert first.identity() == other.identity() == json.loads(json.dumps(first.identity()))
    assert not first.identity().keys() & {"seed", "samples", "data", "keys", "rows", "order", "position", "faults"}


@pytest.mark.parametrize("key", [key for key in ORDERS if ORDERS[key].example])
def test_other_labels_are_another_identity(key):
    assert one(key, groups=4).identity() != one(key, groups=5).identity()


@pytest.mark.parametrize(("key", "sizes"), CASES)
def test_substitutes_are_samples_of_the_same_source(key, sizes):
    order = one(key, sizes)
    sample = order.at(np.arange(order.length))[0]
    words = np.random.default_rng(1).integers(0, 2**63, len(sample)).astype(np.uint64)
    found = order.others(sample, words)
    ends = np.cumsum(sizes)
    assert np.searchsorted(ends, found, side="right").tolist() == np.searchsorted(ends, sample, side="right").tolist()
    assert found.tolist() == order.others(sample, words).tolist()
    assert (found != sample).mean() > 0.5


@pytest.mark.parametrize(("key", "sizes"), CASES)
def test_shares_are_those_of_the_sources(key, sizes):
    order = one(key, sizes)
    for position in (0, 1, order.length, 5 * order.length):
        shares = order.shares(position)
        assert len(shares) == len(sizes)
        assert sum(shares) == pytest.approx(1)
    source = np.searchsorted(np.cumsum(sizes), order.at(np.arange(4 * order.length))[0], side="right")
    assert np.bincount(source) / (4 * order.length) == pytest.approx(order.shares(4 * order.length))


@pytest.mark.parametrize("key", ORDERS)
def test_what_is_left_out_is_counted(key):
    order = one(key)
    seen = set(order.at(np.arange(40 * order.length))[0].tolist())
    assert len(seen) == 203 - sum(order.left_out.values())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("orders"), [20, 0, 30, 3])


def loader(shards, tokenizer, monkeypatch, key, rank=0, world=1, **more):
    """Return a loader whose columns are made up."""
    labels = stream([53], groups=3).labels
    monkeypatch.setattr("mmclr.data.samples.field_readers.labels", lambda parts, name: labels(name))
    tree = {"train": shards, "batch": BATCH, "workers": 0, "order": {"use": key, **ORDERS[key].example}, **more}
    return Loader(check(DataConfig, tree), tokenizer, 16, seed=1, rank=rank, world=world)


def numbers(batches):
    return [batch.index.tolist() for batch in batches]


@pytest.mark.parametrize("key", ORDERS)
def test_ranks_share_every_batch_and_a_run_goes_on_with_other_ranks(key, shards, tokenizer, monkeypatch):
    whole = loader(shards, tokenizer, monkeypatch, key)
    expected = numbers(take(whole, 9))
    first = [loader(shards, tokenizer, monkeypatch, key, rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*(numbers(take(one, 4)) for one in first))] == expected[:4]
    state = json.loads(json.dumps(first[0].state_dict()))
    for world in (1, 4):
        rest = [loader(shards, tokenizer, monkeypatch, key, rank, world) for rank in range(world)]
        for one in rest:
            one.load_state_dict(state)
        parts = [numbers(take(one, 5)) for one in rest]
        assert [[n for part in step for n in part] for step in zip(*parts)] == expected[4:]


@pytest.mark.parametrize("key", ORDERS)
def test_a_run_does_not_go_on_in_another_order(key, shards, tokenizer, monkeypatch):
    state = loader(shards, tokenizer, monkeypatch, key).state_dict()
    assert state["order"] == key
    for other in ORDERS.keys() - {key}:
        with pytest.raises(UserError, match=f"data.order: the order of the samples was {key} .* is {other} "):
            loader(shards, tokenizer, monkeypatch, other).load_state_dict(state)
    for name in loader(shards, tokenizer, monkeypatch, key).order.identity():
        with pytest.raises(UserError, match=r"^data\..* was something else "):
            loader(shards, tokenizer, monkeypatch, key).load_state_dict({**state, name: "something else"})


def test_an_order_is_chosen_by_name():
    def order(**settings):
        return check(DataConfig, {"train": "x", **settings}).arranged()

    assert order().key == order(order="shuffled").key == "shuffled"
    assert order(pure=["a"]).labels == order(order={"use": "cluster_batches", "labels": ["a"]}).labels == ("a",)
    for wrong, said in (
        ({"order": "shufled"}, "order: there is no order 'shufled'; did you mean shuffled?"),
        ({"order": {"labels": ["a"]}}, "order: there is no order ''"),
        ({"order": {"use": "cluster_batches"}}, "order.labels: missing"),
        ({"order": {"use": "cluster_batches", "labels": []}}, "labels names no column"),
        ({"order": {"use": "shuffled", "block": 4}}, "order.block: unknown key"),
        ({"order": {"use": "cluster_batches", "labels": ["a"]}, "pure": ["a"]}, "set one of them"),
        ({"order": {"use": "cluster_batches", "labels": ["a"]}, "block": 8}, "cluster_batches draws batches of one"),
    ):
        with pytest.raises(UserError) as error:
            order(**wrong)
        assert said in str(error.value)
