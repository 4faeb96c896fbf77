"""pamc, pamc_label: the card's sums and values, InfoNCE as a limit, a dense formula, and what ranks send."""

import numpy as np
import pytest
import torch

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.losses import Facts, build
from mmclr.losses.clusters.pamc import contrast, student
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs
from tests.ranks import run

SOFT = [(0.9, 0.1), (0.6, 0.4), (0.2, 0.8)]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def dense(image, text, shares, scale, weights, by_mass=True, drop_diag=False):
    """Return L with every matrix written out; shares [b, K]."""
    mass, w = shares.sum(0), weights / weights.sum()
    some = mass > 0
    x, y = ((shares.T @ side)[some] for side in (image, text))
    z = scale * torch.nn.functional.cosine_similarity(x[:, None], y, dim=2)
    if drop_diag:
        z = z - torch.diag(torch.full((len(z),), torch.inf, dtype=z.dtype))
    log = mass[some].log() if by_mass else torch.zeros_like(mass[some])
    each = ((z + log).logsumexp(1) + (z.T + log).logsumexp(1)) / 2
    apart = (shares.T @ w)[some] @ each if by_mass else each.mean()
    return apart - scale * w @ (image * text).sum(1)


@pytest.mark.parametrize(("assigned", "expected"), [([0, 0, 1], 2.201694), (SOFT, 2.287715)])
def test_the_negatives_of_the_card(assigned, expected):
    """By numpy as they are printed; the objective's value has both directions, and the positives."""
    image, text = (np.array(side, float) for side in F3)
    shares = np.eye(2)[assigned] if isinstance(assigned[0], int) else np.array(assigned)
    x, y = shares.T @ image, shares.T @ text
    z = 2 * (x @ y.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    there, back = (np.log(np.exp(s).sum(1)).mean() for s in (z, z.T))
    assert there == pytest.approx(expected, abs=bounds.printed(6))
    given = torch.tensor(assigned) if isinstance(assigned[0], int) else double(assigned)
    value = contrast(*map(double, F3), given, double(2.0), torch.ones(3).double(), count=2, by_mass=False)
    assert value.item() == pytest.approx((there + back) / 2 - 1.706667, abs=bounds.printed(6))


def test_every_sample_a_cluster_is_clip():
    features = batch(random_pairs(20), 0.1, weights=torch.rand(20).double())
    leaves = [features[name].requires_grad_() for name in ("image", "text", "scale")]
    unit = [torch.nn.functional.normalize(leaf, dim=1) for leaf in leaves[:2]]  # as towers do: a cosine sees no length
    value = contrast(*unit, torch.randperm(20), leaves[2], features["weights"], count=25)
    objective = build("clip", {"duplicates": "negative"})
    features |= dict(zip(("image", "text"), unit))
    expected = objective(**{name: features[name] for name in objective.needs})
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, theirs in zip(*(torch.autograd.grad(v, leaves, retain_graph=True) for v in (value, expected))):
        torch.testing.assert_close(mine, theirs, **bounds.near())
    assert evaluate("pamc_label", F3, 0.5, label=torch.tensor([-1, 4, -1])).item() == pytest.approx(
        0.815062, abs=bounds.printed(6)
    )


@pytest.mark.parametrize("by_mass", [True, False])
@pytest.mark.parametrize("drop_diag", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_equals_the_dense_formula_with_gradients(by_mass, drop_diag, soft):
    image, text = (double(side).requires_grad_() for side in random_pairs(30))
    g = torch.Generator().manual_seed(1)
    which, w = torch.randint(0, 5, (30,), generator=g), torch.rand(30, generator=g).double()
    drawn = torch.rand(30, 5, generator=g, dtype=torch.float64)
    shares = drawn / drawn.sum(1, keepdim=True) if soft else torch.eye(7, dtype=torch.float64)[which]
    scale = double(6.0).requires_grad_()
    how = {"by_mass": by_mass, "drop_diag": drop_diag}
    mine = contrast(image, text, shares if soft else which, scale, w, count=7, **how)
    values = mine, dense(image, text, shares, scale, w, **how)
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    for mine, expected in zip(*(torch.autograd.grad(v, (image, text, scale)) for v in values)):
        torch.testing.assert_close(mine, expected, **bounds.near())


def test_one_cluster_has_the_cosine_of_the_sums():
    image, text = map(double, F3)
    value = contrast(image, text, torch.zeros(3, dtype=torch.int64), double(2.0), torch.ones(3).double(), count=1)
    cosine = torch.cosine_similarity(image.sum(0), text.sum(0), dim=0)
    assert value.item() == pytest.approx((2 * cosine + np.log(3) - 1.706667).item(), abs=bounds.printed(6))


def test_neither_numbers_nor_sizes_of_clusters_say_anything():
    image, text = map(double, random_pairs(12))
    which, w, scale = torch.arange(12) % 4, torch.ones(12).double(), double(5.0)
    first = contrast(image, text, which, scale, w, count=4)
    assert contrast(image, text, 3 - which, scale, w, count=9).item() == pytest.approx(first.item(), rel=1e-12)
    twice = [torch.cat([x, x]) for x in (image, text, which)]
    plain = contrast(image, text, which, scale, w, count=4, by_mass=False)
    again = contrast(*twice, scale, torch.ones(24).double(), count=4, by_mass=False)
    assert again.item() == pytest.approx(plain.item(), rel=1e-12)


def test_sums_that_vanish_have_a_finite_gradient():
    image, text = (double([(1, 0), (-1, 0), (0, 1)]).requires_grad_() for _ in "ab")
    value = contrast(image, text, torch.tensor([0, 0, 1]), double(9.0), torch.ones(3).double(), count=2)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(value, (image, text)))


def test_shares_of_clusters_are_students_t():
    x, means = double([(1, 0)]), double([(1, 0), (0, 1)])
    assert student(x, means)[0].tolist() == pytest.approx([0.75, 0.25])  # 1 and 1 / (1 + 2)


def ready(samples=64, batch=16, **fields):
    torch.manual_seed(0)
    objective = build("pamc", {"clusters": 4, "refresh": 3, **fields})
    objective.setup(Facts(samples=samples, width=8, batch=batch))
    return objective.double()


def step(objective, pairs, index):
    features = batch(pairs, 0.2, index=index)
    value = objective(**{name: features[name] for name in objective.needs})
    objective.after_step()
    return value


@pytest.mark.parametrize("fields", [{}, {"soft": True}, {"drop_diag": True, "by_mass": False}])
def test_clusters_are_used_as_soon_as_there_are_some(fields):
    """Before that it is InfoNCE; then the assignment is that of image and text together, without gradient."""
    objective, pairs = ready(**fields), random_pairs(16)
    first = step(objective, pairs, torch.arange(16))
    if not fields.get("drop_diag"):
        assert first.item() == pytest.approx(evaluate("clip", pairs, 0.2).item(), rel=1e-12)
    assert objective.clustering.ready
    means = objective.clustering[0].means.clone()
    both = torch.nn.functional.normalize(double(pairs[0]) + double(pairs[1]), dim=1)
    shares = student(both, means) if fields.get("soft") else torch.eye(4).double()[torch.cdist(both, means).argmin(1)]
    how = {name: x for name, x in fields.items() if name != "soft"}
    expected = dense(double(pairs[0]), double(pairs[1]), shares, 5.0, torch.ones(16).double(), **how)
    assert step(objective, pairs, torch.arange(16)).item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_single_cluster_without_its_own_pair_is_refused():
    with pytest.raises(ConfigError, match="single cluster has no negatives"):
        build("pamc", {"clusters": 1, "drop_diag": True})


def sent(b, assigned_to=4):
    """Return the bytes that this rank hands to collectives in one step of b pairs, and how many calls there are."""
    objective, found = ready(samples=1 << 20, batch=b, clusters=assigned_to, refresh=2000).float(), []
    objective.clustering[0].means.copy_(torch.randn(assigned_to, 8, generator=torch.Generator().manual_seed(0)))
    objective.clustering[0].counts.fill_(1)
    objective.clustering.moved += 1
    names = ("_gather", "_reduce_scatter", "_total", "_all_gather")
    kept = {name: getattr(parallel, name) for name in names}

    def counted(name):
        def call(*args, **kwargs):
            found.append(max(x.nbytes for x in args if isinstance(x, torch.Tensor)))
            return kept[name](*args, **kwargs)

        return call

    for name in names:
        setattr(parallel, name, counted(name))
    try:
        image, text = (torch.randn(b, 8, requires_grad=True) for _ in "ab")
        index = torch.arange(b) + parallel.rank() * b
        objective(image=image, text=text, scale=torch.tensor(5.0), index=index, weights=torch.ones(b)).backward()
        step = sum(found)
        objective.after_step()
    finally:
        for name in names:
            setattr(parallel, name, kept[name])
    return step, sum(found) - step


@pytest.mark.dist
def test_ranks_send_sums_of_clusters_and_no_samples():
    """In value and gradient the bytes are those of the K sums for any batch; what the reservoir takes is bounded."""
    found = {b: run(2, sent, b)[0] for b in (1024, 8192)}
    assert found[8192][0] == found[1024][0] < 32 * 4 * (2 * 8 + 4) * 4
    assert found[8192][1] < 1.3 * found[1024][1] + 4096
    assert sum(found[8192]) < 8192 * 8 * 4  # one side of this rank's samples
    assert run(2, sent, 1024, 16)[0][0] > 2 * found[1024][0]


def shares_of_ranks(counts):
    image, text = map(double, random_pairs(sum(counts)))
    rows = parallel.Rows(counts)
    w = torch.linspace(1, 2, sum(counts), dtype=torch.float64)
    which = torch.arange(sum(counts)) % 3
    own = [rows.own(x) for x in (image, text, which)]
    with parallel.equally_many(False):
        return contrast(*own, double(4.0), rows.own(w), count=5)


@pytest.mark.dist
def test_shares_of_ranks_add_up():
    alone = shares_of_ranks((13,))
    assert all(x.item() == pytest.approx(alone.item(), rel=1e-12) for x in run(2, shares_of_ranks, (10, 3)))
