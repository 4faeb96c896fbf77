"""hydra: the card's gated cosines and loss, a loop in numpy, its limits, and classes that are missing."""

import math

import numpy as np
import pytest
import torch

from mmclr.config import ConfigError
from mmclr.losses import Facts, build
from mmclr.losses.soft.hydra import binary_entropy, contrast
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs

GATES = [(1, 0.5), (0.5, 1), (1, 1)]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_of_the_card():
    image, text = (double(side) for side in F3)
    own, other = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 1])
    value = contrast(image, text, double(GATES), own, other, torch.ones(3).double(), 2.0)
    assert value.item() == pytest.approx(0.492736, abs=bounds.printed(6))


def test_the_gated_cosines_of_the_card():
    """Of one negative at a time: softplus(l_in - l_ip) tells their difference."""
    image, text = (double(side) for side in F3)
    cosines = double([[0.936329, 0, -0.503871], [0.973841, 0.936329, 0.875859], [0.6, 1, 0.96]])
    for i in range(3):
        for p, n in ((0, 1), (1, 2), (2, 0)):
            own = torch.tensor([9, 8])
            rows = [image[[i, i]], text[[p, n]], double(GATES)[[i, i]]]
            weights = double([1, 0])
            found = contrast(*rows, torch.tensor([9, 8]) * 0 + own, torch.tensor([9, 9]), weights, 2.0)
            # classes: p is of the partner's class 9, n of another
            expected = math.log1p(math.exp(2 * (cosines[i, n] - cosines[i, p])))
            assert found.item() == pytest.approx(expected, abs=2 * bounds.printed(6))


def test_open_gates_and_own_classes_are_clip():
    image, text = (double(side) for side in F3)
    own, ones = torch.arange(3), torch.ones(3).double()
    there, back = (
        contrast(x, y, torch.ones(3, 2).double(), own, own, ones, 2.0) for x, y in ((image, text), (text, image))
    )
    assert there.item() == pytest.approx(0.777917, abs=bounds.printed(6))
    assert ((there + back) / 2).item() == pytest.approx(evaluate("clip", F3, 0.5).item(), rel=1e-12)


def loop(x, y, g, own, other, w, scale):
    """The sums as they are written, with every gated vector; torch, so that gradients come with it."""
    top = bottom = 0
    for i in range(len(x)):
        cos = torch.nn.functional.cosine_similarity(g[i] * x[i], g[i] * y, dim=1) * scale
        positive = [j for j in range(len(y)) if own[j] == other[i]]
        negative = [j for j in range(len(y)) if own[j] not in (own[i], other[i])]
        for p in positive if negative else ():
            top = top + w[i] * (torch.cat([cos[[p]], cos[negative]]).logsumexp(0) - cos[p])
            bottom = bottom + w[i]
    return top / bottom


def test_equals_the_loop_with_gradients():
    g = torch.Generator().manual_seed(0)
    image, text = (double(side).requires_grad_() for side in random_pairs(20))
    gate = torch.rand(20, 8, generator=g, dtype=torch.float64).requires_grad_()
    scale = double(5.0).requires_grad_()
    own, other = (torch.randint(0, 4, (20,), generator=g) for _ in "ab")
    w = torch.rand(20, generator=g, dtype=torch.float64)
    leaves = (image, text, gate, scale)
    values = [f(image, text, gate, own, other, w, scale) for f in (contrast, loop)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    for mine, expected in zip(*(torch.autograd.grad(v, leaves) for v in values)):
        torch.testing.assert_close(mine, expected, **bounds.near())


def test_a_gates_size_says_nothing_and_closed_features_learn_nothing():
    image, text = (double(side).requires_grad_() for side in random_pairs(12))
    gate = torch.rand(12, 8, dtype=torch.float64) + 0.1
    own, other, w = torch.arange(12) % 4, (torch.arange(12) + 1) % 4, torch.ones(12).double()
    values = [contrast(image, text, gate * size, own, other, w, 4.0) for size in (1.0, 0.01)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-9)
    gate[:, 3] = 0
    for slope in torch.autograd.grad(contrast(image, text, gate, own, other, w, 4.0), (image, text)):
        assert slope[:, 3].eq(0).all()
        assert slope[:, 4].ne(0).any()


def test_two_classes_have_no_negatives():
    image, text = (double(side).requires_grad_() for side in random_pairs(6))
    own = torch.arange(6) % 2
    value = contrast(image, text, torch.ones(6, 8).double(), own, 1 - own, torch.ones(6).double(), 3.0)
    assert value == 0
    assert all(slope.eq(0).all() for slope in torch.autograd.grad(value, (image, text)))


def ready(fields=(), classes=6, width=8):
    torch.manual_seed(0)
    objective = build("hydra", {"gate": 16, **dict(fields)})
    objective.setup(Facts(width=width, classes=classes))
    return objective.double()


def call(objective, pairs, label, **more):
    torch.manual_seed(0)
    features = batch(pairs, 0.3, label=torch.as_tensor(label), **more)
    features.setdefault("index", torch.arange(len(features["image"])))
    return objective(**{name: features[name] for name in objective.needs}), features


def test_samples_without_a_class_have_no_part():
    objective, pairs = ready(), random_pairs(12)
    label = [0, 1, 2, -1, 3, 0, 1, -1, 2, 4, -1, 5]
    value, features = call(objective, pairs, label)
    some = [i for i, c in enumerate(label) if c >= 0]
    without, _ = call(
        objective, [[side[i] for i in some] for side in pairs], [label[i] for i in some], index=torch.tensor(some)
    )
    assert value.item() == pytest.approx(without.item(), rel=1e-12)
    for slope in torch.autograd.grad(value, (features["image"], features["text"]), retain_graph=True):
        assert slope[[3, 7, 10]].eq(0).all()
        assert slope[some].abs().sum(1).gt(0).all()


def test_every_weight_of_the_gate_learns():
    objective = ready({"entropy": 0.1})
    value, _ = call(objective, random_pairs(12), torch.arange(12) % 6)
    for name, slope in zip(
        dict(objective.named_parameters()), torch.autograd.grad(value, list(objective.parameters()))
    ):
        assert slope.abs().sum() > 1e-12, name


@pytest.mark.parametrize("label", [[-1] * 5, [2] * 5, [-1, 3, -1, -1, -1]])
def test_too_few_classes_are_no_trouble(label):
    objective = ready()
    value, features = call(objective, random_pairs(5), label)
    slopes = torch.autograd.grad(value, [features["image"], *objective.parameters()])
    assert value == 0
    assert all(slope.eq(0).all() for slope in slopes)


def test_one_class_only_is_told():
    with pytest.warns(UserWarning, match="hydra: 40 of 40 samples have a class and all the same, .* mmclr data label"):
        call(ready(), random_pairs(40), [3] * 40)


def test_classes_that_nobody_counted_are_refused():
    with pytest.raises(ConfigError, match=r"nobody counted the classes of data.label.* data.label=column:label"):
        ready(classes=0)


def test_entropy_is_most_for_gates_that_are_half_open():
    gate = double([0.5, 0.1, 0.0, 1.0])
    assert binary_entropy(gate).tolist() == pytest.approx([np.log(2), 0.325083, 0, 0], abs=bounds.printed(6))
    values = [call(ready({"entropy": e}), random_pairs(12), torch.arange(12) % 6)[0] for e in (0.0, 1.0)]
    assert 0 < values[1] - values[0] < np.log(2)
