"""Orders by columns: siblings stand side by side, rare classes come more often."""

import numpy as np
import pytest

from mmclr.config import check
from mmclr.data.stream.loader import DataConfig
from mmclr.data.stream.order import build
from mmclr.data.stream.orders.siblings import _Part
from mmclr.errors import UserError
from tests.data.streams import stream


def made(tree, labels, batch=8, **more):
    """Return an order of one source whose column says these labels."""
    order = build(tree)
    known = stream([len(labels)], batch=batch, **more)
    order.setup(type(known)(**{**vars(known), "labels": lambda name: np.asarray(labels)}))
    return order


def test_chunks_of_a_group_are_side_by_side_and_others_each_epoch():
    labels = np.random.default_rng(0).integers(0, 40, 400)
    labels[::10] = -1
    order = made({"use": "siblings", "column": "group", "together": 4}, labels)
    pairs = []
    for epoch in range(3):
        sample, when = order.at(np.arange(400) + 400 * epoch)
        assert sorted(sample.tolist()) == list(range(400))
        assert (when == epoch).all()
        own = labels[sample]
        runs = np.split(own, np.flatnonzero(np.diff(own) != 0) + 1)
        sizes = np.array([len(run) for run in runs if run[0] >= 0])
        wanted = sum(-(-n // 4) for n in np.bincount(labels[labels >= 0]))
        assert len(sizes) <= wanted  # two chunks of a group may meet by chance
        assert sizes.sum() == (labels >= 0).sum()
        near = zip(sample.tolist(), sample[1:].tolist())
        pairs.append({(min(pair), max(pair)) for pair in near if labels[pair[0]] == labels[pair[1]]})
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 2  # a group is cut otherwise


def test_a_batch_has_siblings_but_for_what_its_end_cuts():
    labels = np.repeat(np.arange(64), 3)
    order = made({"use": "siblings", "column": "group", "together": 0}, labels, batch=32)
    sample, _ = order.at(np.arange(192))
    for batch in labels[sample].reshape(6, 32):
        assert (np.bincount(batch)[np.unique(batch)] < 3).sum() <= 2  # at its begin, and at its end
    plain = made("shuffled", labels, batch=32).at(np.arange(192))[0]
    assert (np.diff(labels[plain]) == 0).mean() < 0.1 < (np.diff(labels[sample]) == 0).mean()


def test_together_one_and_groups_of_one_are_single_samples():
    for tree, labels in (
        ({"use": "siblings", "column": "group", "together": 1}, np.zeros(50, int)),
        ({"use": "siblings", "column": "group"}, np.full(50, -1)),
        ({"use": "siblings", "column": "group"}, np.arange(50)),
    ):
        sample, _ = made(tree, labels).at(np.arange(50))
        assert sorted(sample.tolist()) == list(range(50))
        assert (np.abs(np.diff(sample)) == 1).mean() < 0.2


def test_blocks_keep_neighbouring_groups_together():
    labels = np.repeat(np.arange(500), 2)
    order = made({"use": "siblings", "column": "group"}, labels, block=10, window=2)
    sample, _ = order.at(np.arange(1000))
    assert sorted(sample.tolist()) == list(range(1000))
    near = [np.ptp(sample[i : i + 40]) for i in range(0, 1000, 40)]  # a window has 20 groups, 40 samples
    assert np.median([len(set(sample[i : i + 40] // 20)) for i in range(0, 1000, 40)]) <= 8
    assert len(near) == 25


def test_groups_are_in_the_order_of_their_first_samples():
    part = _Part(np.array([5, 2, 5, -1, 2, 2, 9]), 2)
    assert part.members.tolist() == [0, 2, 1, 4, 5, 3, 6]
    assert part.size.tolist() == [2, 2, 1, 1, 1]
    assert part.group.tolist() == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_shares_of_classes_are_powers_of_their_sizes(beta):
    counts = [900, 90, 9, 1]
    labels = np.random.default_rng(1).permutation(np.repeat([3, 0, 1, -1], counts))
    order = made({"use": "balanced", "column": "label", "beta": beta}, labels)
    sample, epoch = order.at(np.arange(4000))
    share = np.array([(labels[sample] == c).mean() for c in (3, 0, 1, -1)])
    wanted = np.array(counts) ** (1 - beta) / (np.array(counts) ** (1 - beta)).sum()
    assert np.abs(share - wanted).max() < 1 / 1000  # less than a sample or two in 4,000, and the period's rounding
    for c, n in zip((3, 0, 1, -1), counts):  # each class goes through all of its samples before one comes again
        own = sample[labels[sample] == c]
        for begin in range(0, len(own) - n + 1, n):
            assert len(set(own[begin : begin + n].tolist())) == n
    assert len(set(zip(sample.tolist(), epoch.tolist()))) == 4000  # no draw of a sample is like another


def test_orders_by_columns_say_what_is_wrong():
    with pytest.raises(UserError, match="below 1 in 10000 of all: leave rare ones out"):
        made({"use": "balanced", "column": "label", "beta": 0.0}, np.array([0] * 30_000 + [1]))
    for tree, fault in (
        ({"use": "balanced", "column": "label", "beta": 2}, "beta is 0 to 1"),
        ({"use": "siblings", "column": "group", "together": -1}, "together is at least 1"),
        ({"use": "siblings"}, "order.column"),
    ):
        with pytest.raises(UserError, match=fault):
            check(DataConfig, {"train": "a.tar", "order": tree})
    check(DataConfig, {"train": "a.tar", "block": 4, "order": {"use": "balanced", "column": "label"}})
    with pytest.raises(UserError, match="balanced draws batches of one source's samples: .* one source, tail: carry"):
        check(DataConfig, {"train": "a.tar", "tail": "pad", "order": {"use": "balanced", "column": "label"}})
