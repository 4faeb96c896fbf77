"""Clusters that follow a training: Lloyd's rounds against a loop, when they move, and any number of processes."""

import copy

import numpy as np
import pytest
import torch

from mmclr import parallel
from mmclr.losses import Facts
from mmclr.losses.clusters.clustering import Clustering, Clusters, nearest, starts
from tests import bounds
from tests.ranks import run


def points(n, D=5, seed=0, around=4):
    """Return points around a few centres."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(around, D, generator=g) * 3
    return centres[torch.randint(0, around, (n,), generator=g)] + torch.randn(n, D, generator=g)


def lloyd(x, means, rounds):
    """Rounds as they are written, numpy."""
    for _ in range(rounds):
        which = ((x[:, None] - means) ** 2).sum(2).argmin(1)
        means = np.stack([x[which == k].mean(0) for k in range(len(means))])
    apart = np.sqrt(((x[:, None] - means) ** 2).sum(2))
    which = apart.argmin(1)
    return means, np.bincount(which, minlength=len(means)), [apart[which == k, k].mean() for k in range(len(means))]


@pytest.mark.parametrize("rounds", [1, 3, 50])
def test_rounds_equal_the_loop(rounds):
    x, numbers = points(200), torch.arange(200)
    clusters = Clusters(4, 5).double()
    clusters.fit(x, numbers, warm=False, rounds=rounds, salt=3)
    begin = starts(x, numbers, 4, 3).double().numpy()
    means, counts, spreads = lloyd(x.double().numpy(), begin, rounds)
    np.testing.assert_allclose(clusters.means, means, rtol=1e-12)
    np.testing.assert_array_equal(clusters.counts, counts)
    np.testing.assert_allclose(clusters.spreads, spreads, rtol=1e-6)
    warm = copy.deepcopy(clusters)
    warm.fit(x, numbers, warm=True, rounds=2, salt=9)
    np.testing.assert_allclose(warm.means, lloyd(x.double().numpy(), means, 2)[0], rtol=1e-12)


def test_a_cluster_that_lost_its_samples_begins_anew():
    clusters, x = Clusters(3, 1), torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    clusters.means.copy_(torch.tensor([[0.0], [5.0], [100.0]]))
    clusters.fit(x, torch.arange(6), warm=True, rounds=10, salt=0)
    assert (clusters.counts > 0).all()
    assert clusters.counts.sum() == 6


def test_an_empty_cluster_is_nobodys_nearest():
    clusters = Clusters(2, 1)
    clusters.means.copy_(torch.tensor([[0.0], [1.0]]))
    clusters.counts.copy_(torch.tensor([1.0, 0.0]))
    assert clusters.nearest(torch.tensor([[1.0]])).tolist() == [0]
    assert nearest(torch.zeros(0, 1), torch.zeros(2, 1))[0].shape == (0,)


def test_starts_hang_on_samples_alone():
    """Whatever the order; another salt takes others; few samples come again."""
    x, numbers = points(50), torch.randperm(1000)[:50]
    order = torch.randperm(50)
    assert torch.equal(starts(x, numbers, 7, 1), starts(x[order], numbers[order], 7, 1))
    assert not torch.equal(starts(x, numbers, 7, 1), starts(x, numbers, 7, 2))
    assert torch.equal(starts(x[:2], numbers[:2], 4, 1)[:2], starts(x[:2], numbers[:2], 4, 1)[2:])


def ready(samples=64, batch=8, **more):
    facts = Facts(samples=samples, width=5, batch=batch)
    return Clustering(**{"clusters": [3, 2], "facts": facts, "refresh": 5, **more})


def feed(clustering, steps, x, batch=8, first=0):
    """Take steps over the samples in turn, this rank's share of each batch; return the steps at which means moved."""
    moved = []
    for step in range(first, first + steps):
        index = parallel.own_rows((torch.arange(batch) + step * batch) % len(x))
        clustering.keep(index, x[index] + step / 100)
        before = int(clustering.moved)
        clustering.update()
        moved += [step + 1] if int(clustering.moved) != before else []
    return moved


def test_means_move_when_steps_have_doubled_and_then_every_refresh():
    clustering = ready()
    assert not clustering.ready
    assert feed(clustering, 20, points(64)) == [1, 2, 4, 8, 13, 18]
    assert clustering.ready
    assert clustering[0].counts.sum() == clustering[1].counts.sum() == 64


def test_what_is_kept_is_the_newest():
    """Of samples with the same place the last one stays, in one batch that with the largest number."""
    clustering, x = ready(reservoir=10, samples=40), points(40)
    clustering.keep(torch.tensor([3, 13, 23, 4]), x[:4])
    clustering.update()
    kept, numbers = clustering.memory()
    assert numbers.tolist() == [23, 4]
    assert torch.equal(kept, x[[2, 3]])
    clustering.keep(torch.tensor([13]), x[7:8])
    clustering.update()
    assert clustering.memory()[1].tolist() == [13, 4]


def test_of_a_large_batch_a_share_is_kept_whatever_the_order():
    clustering, x = ready(samples=8192, batch=8192), torch.randn(8192, 5)
    clustering.keep(torch.arange(8192), x)
    index, _ = clustering._found
    assert 1100 < len(index) < 1800  # 8192 / 5 in expectation: a refresh sees the whole reservoir anew
    clustering.keep(torch.arange(8192).flip(0), x.flip(0))
    assert torch.equal(clustering._found[0].sort().values, index)


def test_no_more_clusters_than_samples_can_fill():
    assert [len(c.means) for c in ready(clusters=[256, 3])] == [16, 3]


def test_what_is_no_number_of_clusters_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ready(clusters=[0])


def trained(steps, state=None, first=0):
    clustering = ready(clusters=[3, 6])
    if state is not None:
        clustering.load_state_dict(state)
    moved = feed(clustering, steps, points(64), first=first)
    return moved, {name: x.clone() for name, x in clustering.state_dict().items()}


@pytest.mark.dist
@pytest.mark.parametrize("world", [2, 4])
def test_clusters_are_the_same_for_any_number_of_processes(world):
    moved, alone = trained(11)
    for others, several in run(world, trained, 11):
        assert others == moved
        for name in alone:
            if not name.endswith("rows"):
                torch.testing.assert_close(several[name], alone[name], **bounds.near())


@pytest.mark.dist
def test_a_checkpoint_in_the_middle_of_a_refresh_goes_on_with_other_processes():
    moved, whole = trained(13)
    _, half = run(2, trained, 10)[0]
    again, rest = trained(3, half, first=10)
    assert again == [step for step in moved if step > 10]
    for name in whole:
        torch.testing.assert_close(rest[name], whole[name], **bounds.near())
