"""beclr: InfoNCE as a limit, neighbours and values against a loop, and whose neighbour is nobody."""

import math

import pytest
import torch

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.losses import Facts, build
from mmclr.losses.clusters.beclr import neighbours, pull
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs
from tests.ranks import run

CARD = ([(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.6, 0.8)])


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def ready(**fields):
    torch.manual_seed(0)
    objective = build("beclr", {"k": 2, "clusters": 3, "refresh": 100, **fields})
    objective.setup(Facts(samples=64, width=8, batch=20))
    return objective.double()


def step(objective, pairs, index, **more):
    features = batch(pairs, 0.2, index=index, image_id=index, caption_id=index, **more)
    value = objective(**{name: features[name] for name in objective.needs})
    return value, features


def filled(**fields):
    """Return an objective with a memory of the samples 0 to 19, and their pairs."""
    objective, pairs = ready(**fields), random_pairs(20)
    step(objective, pairs, torch.arange(20))
    objective.after_step()
    return objective, pairs


def test_without_neighbours_it_is_clip():
    expected = 0.806810
    assert evaluate("clip", CARD, 0.5).item() == pytest.approx(expected, abs=bounds.printed(6))
    objective, pairs = filled(k=0)
    assert objective.texts.ready
    value, features = step(objective, pairs, torch.arange(20))
    clip = build("clip", {})(**{name: features[name] for name in build("clip", {}).needs})
    assert value.item() == pytest.approx(clip.item(), rel=1e-12)
    first, _ = step(ready(), pairs, torch.arange(20))
    assert first.item() == pytest.approx(clip.item(), rel=1e-12)


def loop(objective, image, text, index, scale, w):
    """The loss, a sample at a time; sample numbers are ids, so that all captions differ."""
    total = 0
    for x, y, memory in ((image, text, objective.texts), (text, image, objective.images)):
        kept, numbers = memory.memory()
        kept, means = kept.double(), memory[0].means
        which = torch.cdist(kept, means).argmin(1)
        for i in range(len(x)):
            own = torch.cdist(y[i : i + 1].detach(), means).argmin()
            mine = [j for j in range(len(kept)) if which[j] == own and numbers[j] != index[i]]
            mine = sorted(mine, key=lambda j: -float(y[i].detach() @ kept[j]))[: objective.k]
            near = [scale * x[i] @ kept[j] for j in mine]
            logits = torch.stack([scale * x[i] @ y[j] for j in range(len(y))] + near)
            positive = torch.stack([logits[i], *near])
            total = total + w[i] * (logits.logsumexp(0) - positive.mean()) / 2
    return total / w.sum()


def test_equals_the_loop_with_gradients():
    objective, _ = filled()
    pairs, index = random_pairs(12, seed=4), torch.arange(12) + 3
    w = torch.rand(12, generator=torch.Generator().manual_seed(1)).double()
    value, features = step(objective, pairs, index, weights=w)
    leaves = features["image"], features["text"], features["scale"].requires_grad_()
    value, features = step(objective, pairs, index, weights=w, scale=leaves[2])
    leaves = features["image"], features["text"], leaves[2]
    expected = loop(objective, *leaves[:2], index, leaves[2], w)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, theirs in zip(*(torch.autograd.grad(v, leaves) for v in (value, expected))):
        torch.testing.assert_close(mine, theirs, **bounds.near())


def test_a_sample_is_no_neighbour_of_its_own():
    objective, pairs = filled(clusters=1)
    text = double(pairs[1])
    own = neighbours(text, text, objective.texts, torch.arange(20), 1, double(1.0))
    other = neighbours(text, text, objective.texts, torch.arange(20) + 100, 1, double(1.0))
    assert (own < 1 - 1e-3).all()
    torch.testing.assert_close(other, torch.ones_like(other), rtol=0, atol=1e-6)  # the memory is float32


def test_a_cluster_with_few_samples_gives_few_neighbours():
    objective, pairs = filled()
    text, counts = double(pairs[1]), objective.texts[0].counts
    found = neighbours(text, text, objective.texts, torch.arange(20), 50, double(1.0))
    which = objective.texts[0].nearest(text)
    assert (found > -torch.inf).sum(1).tolist() == (counts[which] - 1).int().tolist()


def test_the_pull_of_an_anchor():
    value = pull(double([1.0]), double([[2.0, 1.0, -math.inf]]))
    assert value.item() == pytest.approx(math.log(2 * math.e + math.e**2) - 1.5)
    lonely = double([[2.0, -math.inf]]).requires_grad_()
    alone = pull(double([-math.inf]), lonely)
    assert alone.item() == pytest.approx(0)
    assert torch.autograd.grad(alone.sum(), lonely)[0].isfinite().all()


def test_what_is_no_number_of_positives_is_refused():
    with pytest.raises(ConfigError, match="0 or more, not -1"):
        build("beclr", {"k": -1})


def two_steps():
    objective, found = ready(refresh=1), []
    for seed in range(3):
        pairs, index = random_pairs(20, seed=seed), torch.arange(20) + 7 * seed
        pairs = [parallel.own_rows(double(side)).tolist() for side in pairs]
        value, _ = step(objective, pairs, parallel.own_rows(index))
        objective.after_step()
        found.append(value.item())
    return found


@pytest.mark.dist
def test_a_memory_shared_out_among_processes_is_the_same():
    alone = two_steps()
    for several in run(2, two_steps):
        assert several == pytest.approx(alone, rel=1e-12)
