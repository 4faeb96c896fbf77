"""Batches from one cluster each: pure, every sample once, the same at any number of ranks and from any place."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmclr.config import check
from mmclr.data.columns.clusters import groups
from mmclr.data.stream.loader import DataConfig
from mmclr.data.stream.orders.cluster_batches import ClusterBatches
from mmclr.errors import UserError
from tests import bounds
from tests.data.labelled import label, loader, numbers
from tests.data.made import take
from tests.losses.cards import evaluate


def pure(groups, batch, seed):
    order = ClusterBatches(labels=("clusters",))
    order.arrange(groups, batch, seed)
    return order


def everything(order, epochs=1):
    return order.at(np.arange(epochs * order.length, dtype=np.int64))


def test_sizes_of_the_card():
    """Clusters of 7 and 3, batches of 2: four batches, two samples left out; of 4: one."""
    labels = np.array([0] * 7 + [1] * 3)
    assert pure(labels, 2, 0).length == 8
    order = pure(labels, 4, 0)
    assert (order.length, order.left_out) == (4, {"small_group": 3})
    with pytest.raises(UserError, match=r"no group has data.batch=8 samples \(the largest has 7\)"):
        pure(labels, 8, 0)


def test_batches_are_pure_and_no_sample_comes_twice():
    labels = np.random.default_rng(0).integers(0, 5, 1003)
    order = pure(labels, 16, 7)
    sample, epoch = everything(order, 3)
    for part in sample.reshape(-1, 16):
        assert len(set(labels[part].tolist())) == 1
    for number in range(3):
        mine = sample[epoch == number]
        assert len(set(mine.tolist())) == len(mine) == order.length
        assert sorted(np.bincount(labels[mine]) // 16) == sorted(np.bincount(labels) // 16)
    first, second = (set(sample[epoch == e].tolist()) for e in (0, 1))
    assert first != second  # who is left out changes
    of_batches = labels[sample.reshape(-1, 16)[:, 0]]
    assert (np.diff(of_batches) != 0).mean() > 0.5  # clusters are mixed


def test_any_place_can_be_the_first():
    labels = np.random.default_rng(1).integers(0, 4, 200)
    order = pure(labels, 8, 7)
    sample, epoch = everything(order, 2)
    for start in (0, 13, order.length - 3, order.length + 40):
        part = order.at(np.arange(start, start + 9))
        assert part[0].tolist() == sample[start : start + 9].tolist()
        assert part[1].tolist() == epoch[start : start + 9].tolist()
    assert pure(labels, 8, 8).at(np.arange(30))[0].tolist() != sample[:30].tolist()


def test_one_cluster_is_a_plain_shuffle():
    sample, _ = everything(pure(np.zeros(64, np.int64), 8, 3))
    assert sorted(sample.tolist()) == list(range(64))


def test_substitutes_are_of_the_same_group():
    labels = np.random.default_rng(2).integers(0, 4, 200)
    order = pure(labels, 8, 7)
    sample = np.arange(200)
    others = order.others(sample, np.random.default_rng(3).integers(0, 2**63, 200).astype(np.uint64))
    assert labels[others].tolist() == labels[sample].tolist()
    assert (others != sample).mean() > 0.8


def test_ranks_share_each_pure_batch_and_a_run_goes_on(numbered, tokenizer):
    """Of 87 usable samples, two labels: 4 are in a group that is smaller than a batch."""
    label(numbered, lambda n: 9 if n < 4 else n % 3, name="one")
    label(numbered, lambda n: 0 if n < 4 else n % 2, name="two")
    settings = {"pure": ["one", "two"]}
    alone = loader(numbered, tokenizer, **settings)
    assert alone.ledger.excluded["small_group"] == 4
    batches = [numbers(batch) for batch in take(alone, 20)]
    for part in batches:
        assert len({(n % 3, n % 2) for n in part}) == 1
        assert min(part) >= 4
    ranks = [take(loader(numbered, tokenizer, rank, 2, **settings), 20) for rank in range(2)]
    assert [numbers(a) + numbers(b) for a, b in zip(*ranks)] == batches
    first = loader(numbered, tokenizer, **settings)
    take(first, 7)
    again = loader(numbered, tokenizer, **settings)
    again.load_state_dict(first.state_dict())
    assert [numbers(batch) for batch in take(again, 5)] == batches[7:12]


def test_a_run_does_not_go_on_with_other_groups(numbered, tokenizer):
    label(numbered, lambda n: n % 3)
    state = loader(numbered, tokenizer, pure=["clusters"]).state_dict()
    with pytest.raises(UserError, match="data.batch: .* was 6 .* is 4"):
        loader(numbered, tokenizer, pure=["clusters"], batch=4).load_state_dict(state)
    label(numbered, lambda n: n % 2)
    with pytest.raises(UserError, match="data.pure: the fingerprint of the groups"):
        loader(numbered, tokenizer, pure=["clusters"]).load_state_dict(state)


@pytest.mark.parametrize("more", [{"tail": "pad"}, {"block": 8}, {"train": {"a": {"urls": "x"}, "b": {"urls": "y"}}}])
def test_what_pure_batches_cannot_be(more):
    with pytest.raises(UserError, match="pure draws batches of one source's single samples"):
        check(DataConfig, {"train": "x", "pure": ["clusters"], **more})


def test_pure_batches_are_the_papers_masked_loss():
    """The contrast within each cluster, weighed by its rows, is the mixed batch whose other clusters are masked."""
    image, text = (F.normalize(torch.randn(8, 5, dtype=torch.float64), dim=1) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0])
    s = (image @ text.T / 0.5).masked_fill(labels[:, None] != labels, -torch.inf)
    masked = (F.cross_entropy(s, torch.arange(8)) + F.cross_entropy(s.T, torch.arange(8))) / 2
    total = 0.0
    for which in (0, 1):
        mine = labels == which
        total += mine.sum().item() / 8 * evaluate("clip", (image[mine].tolist(), text[mine].tolist()), 0.5).item()
    assert total == pytest.approx(masked.item(), rel=1e-12)


def test_the_loss_of_the_card():
    """Two of a batch of three pairs are in one cluster: the value is theirs alone."""
    pairs = ([(1, 0), (0.6, 0.8)], [(0.8, 0.6), (1, 0)])
    values = [evaluate("clip", pairs, 0.5, {"image_weight": w}).item() for w in (1.0, 0.0, 0.5)]
    assert values == pytest.approx([1.014805, 1.018497, 1.016651], abs=bounds.printed(6))


def test_what_has_no_cluster_is_in_no_group_with_others():
    first, second = np.array([0, 0, -1, -1, 1, 0]), np.array([2, 2, 2, 2, 2, -1])
    found = groups([first, second])
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 5
