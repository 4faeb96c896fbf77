"""susana, susana_label, icnn: the card's hinges and scores, loops over samples, and what has no gradient."""

import math

import numpy as np
import pytest
import torch

from mmclr.errors import UserError
from mmclr.losses import build
from mmclr.losses.algebra import Pairs
from mmclr.losses.pairs.susana import hinges, nearest, neighbourhoods, reach, score
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

CARD = ([(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.6, 0.8)])
POINTS = [(0, 0), (0.1, 0), (0, 0.2), (1, 1), (1.1, 1), (1, 1.3)]


def call(key, pairs, fields=None, **more):
    features = batch(pairs, **more)
    objective = build(key, fields or {})
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_hinges_of_the_card():
    image, text = (torch.tensor(side, dtype=torch.float64) for side in CARD)
    ids = torch.arange(3)
    assert hinges(image, text, ids, 0.5).tolist() == pytest.approx([0, 0.849612, 1.131456], abs=bounds.printed(6))
    assert hinges(text, image, ids, 0.5).tolist() == pytest.approx([0.849612, 1.131456, 0], abs=bounds.printed(6))
    assert evaluate("susana", CARD).item() == pytest.approx(0.660356, abs=bounds.printed(6))


@pytest.mark.parametrize(
    ("labels", "k", "window", "expected"),
    [("000111", 2, 3, 0.962159), ("000111", 4, 5, 0.935049), ("010101", 2, 3, 0.322697)],
)
def test_the_scores_of_the_card(labels, k, window, expected):
    x, y = torch.tensor(POINTS, dtype=torch.float64), torch.tensor([int(label) for label in labels])
    assert icnn(x, y, k, window).item() == pytest.approx(expected, abs=bounds.printed(6))
    assert by_hand(x.numpy(), y.numpy(), k, window) == pytest.approx(expected, abs=bounds.printed(6))


def icnn(x, y, k, window=0):
    few = len(x) <= k + 2
    k, window = reach(len(x), k, window)
    distances, columns = nearest(x, x, window, Pairs())
    near = neighbourhoods(distances, y[columns] == y[:, None], k)
    near = near._replace(other=near.other / near.farthest.max().clamp_min(1e-300))
    return score(near, torch.ones(len(x), dtype=x.dtype), few)


def by_hand(x, y, k, window):
    """The score, a sample at a time."""
    few, n = len(x) <= k + 2, len(x)
    k = min(k, n - 2)
    window = max(k, min(window or k + 1, n - 1))
    own, other, share = [], [], []
    for i in range(n):
        d = np.sqrt(((x - x[i]) ** 2).sum(1) + 1e-6)
        near = [j for j in np.argsort(d, kind="stable") if j != i][:window]
        strangers = [d[j] for j in near if y[j] != y[i]]
        r = d[near[:k]] / (min(strangers) + 1e-7) if strangers else np.zeros(k)
        r = r / max(1, r.max())
        mine = np.array([y[j] == y[i] for j in near[:k]])
        own += [r[mine].mean()] if mine.any() else []
        other += [d[near[:k]][~mine]] if not mine.all() else []
        share.append(mine.mean())
    same = 1 - np.mean(own) if own else 0
    apart = np.mean([e.mean() for e in other]) / max(e.max() for e in other) if other else 1
    return (same + apart) / 4 + (1 if few else np.mean(share)) / 2


@pytest.mark.parametrize(("b", "fields"), [(30, {}), (30, {"k": 7, "window": 20}), (2, {}), (3, {}), (1, {})])
def test_icnn_equals_the_loop(b, fields):
    """In batches of few pairs k is cut; -1 is a class with its own pair."""
    pairs = random_pairs(b)
    label = torch.randint(-1, 4, (b,), generator=torch.Generator().manual_seed(1))
    value, features = call("icnn", pairs, fields, label=label)
    classes = torch.where(label < 0, 100 + torch.arange(b), label).repeat(2).numpy()
    x = np.concatenate([np.array(side) for side in pairs])
    expected = by_hand(x, classes, fields.get("k", 4), fields.get("window", 0)) if b > 1 else 1.0
    assert value.item() == pytest.approx(-math.log(expected), rel=bounds.bound(torch.float64, 512))
    assert torch.autograd.grad(value, features["image"])[0].isfinite().all()


@pytest.mark.parametrize("key", ["susana", "susana_label"])
def test_hinges_equal_the_loop(key):
    """Prototypes are means that are not normalised; only rows whose hinge is open have a gradient."""
    b, pairs = 20, random_pairs(20)
    ids = torch.randint(0, 7, (b,), generator=torch.Generator().manual_seed(2))
    value, features = call(key, pairs, {"margin": 0.2}, caption_id=ids, label=ids)
    total, x, y = 0.0, *(np.array(side) for side in pairs)
    closed = []
    for a, c in ((x, y), (y, x)):
        prototypes = {int(i): c[ids.numpy() == int(i)].mean(0) for i in ids.unique()}
        far = lambda p, q: math.sqrt(((p - q) ** 2).sum() + 1e-6)  # noqa: E731
        each = [
            max(0, far(a[i], prototypes[int(ids[i])])
                - min(far(a[i], p) for name, p in prototypes.items() if name != int(ids[i])) + 0.2)
            for i in range(b)
        ]  # fmt: skip
        closed.append([i for i, hinge in enumerate(each) if hinge == 0])
        total += np.mean(each) / 2
    assert value.item() == pytest.approx(total, rel=bounds.bound(torch.float64, 512))
    one = hinges(features["image"], features["text"].detach(), torch.arange(b), 0.0)
    slopes = torch.autograd.grad(one.sum(), features["image"])[0].abs().sum(1)
    assert ((slopes > 0) == (one > 0)).all()
    assert len(closed[0]) < b


def test_one_concept_has_no_other_prototype():
    value, features = call("susana", random_pairs(5), caption_id=torch.zeros(5, dtype=torch.int64))
    assert value.item() == 0
    assert not torch.autograd.grad(value, features["image"])[0].any()


def test_what_is_a_margin_nearer_costs_nothing():
    pairs = [[(1, 0), (-1, 0)]] * 2
    assert evaluate("susana", pairs, fields={"margin": 1.9}).item() == 0
    assert evaluate("susana", pairs, fields={"margin": 2.1}).item() == pytest.approx(0.101, abs=1e-6)  # |2, 0| and 1e-3


def test_the_score_hardly_sees_the_size_of_features():
    x = torch.tensor(random_pairs(30)[0], dtype=torch.float64)
    y = torch.arange(30) % 3
    assert icnn(5 * x, y, 4).item() == pytest.approx(icnn(x, y, 4).item(), rel=1e-4)
    clusters = x * 0.01 + torch.eye(8, dtype=torch.float64)[y]
    assert icnn(x, y, 4) < icnn(clusters, y, 4) <= 1
    assert icnn(clusters, y, 4) > 0.9


def test_what_is_no_number_of_neighbours_is_refused():
    with pytest.raises(UserError, match="k is at least 1"):
        build("icnn", {"k": 0})
