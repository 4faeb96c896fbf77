"""conr and conr_target: the card's numbers, a loop in numpy, who has a gradient, and what nobody's window holds."""

import math

import numpy as np
import pytest
import torch

from mmclr.config import ConfigError
from mmclr.losses import Facts, build
from mmclr.losses.soft.conr import contrast, distance_quantile, relate
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def difference(values):
    return lambda rows, cols: (values[rows, None] - values[cols]).abs()


def test_the_labels_of_the_card():
    z = double([(1, 0), (0.8, 0.6), (0, 1), (0.6, 0.8)])
    y, p = double([0, 0.5, 3, 5]), double([0, 0.4, 0.6, 5])
    relation = relate(difference(y), difference(p), 1.0, lambda d: 0.1 * d, own=False)
    row, col = contrast(z, z, 0.5, relation)
    assert row.tolist() == pytest.approx([0.241008, 0.620957, 0, 0], abs=bounds.printed(6))
    assert row.mean().item() == pytest.approx(0.215491, abs=bounds.printed(6))
    assert torch.equal(row, col) or torch.allclose(row, col, rtol=1e-14)  # the relation is symmetric


def test_the_captions_of_the_card():
    image, text = double([(1, 0), (0.6, 0.8), (0, 1)]), double([(0.8, 0.6), (0, 1), (-0.6, 0.8)])
    frozen = double([(1, 0), (0.96, 0.28), (-0.6, 0.8)])
    features = batch((image.tolist(), text.tolist()), frozen_text=frozen)
    objective = build("conr", {"tau": 0.5})
    distances = [lambda r, c, x=x: 1 - x[r] @ x[c].T for x in (frozen, text)]
    relation = relate(*distances, 0.25, lambda d: d, own=True)
    assert relation.near(slice(0, 3), slice(0, 3)).int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    row, col = contrast(image, text, 0.5, relation)
    assert row.tolist() == pytest.approx([0, 1.159963, 1.911928], abs=bounds.printed(6))
    assert row.mean().item() == pytest.approx(1.023964, abs=bounds.printed(6))
    value = objective(**{name: features[name] for name in objective.needs})
    assert value.item() == pytest.approx((row.mean() + col.mean()).item() / 2, rel=1e-12)


def anchors(s, near, push, eta=None):
    """L_i of each row, as the formula says: s logits, near bool, push log S and -inf outside of the negatives."""
    found = []
    for i in range(len(s)):
        more = 0 if eta is None else math.log(eta[i])
        negatives = [math.exp(s[i, j] + push[i, j] + more) for j in range(len(s)) if push[i, j] > -math.inf]
        positives = [j for j in range(len(s)) if near[i, j]]
        if not negatives or not positives:
            found.append(0.0)
            continue
        whole = math.log(sum(math.exp(s[i, j]) for j in positives) + sum(negatives))
        found.append(whole - np.mean([s[i, j] for j in positives]))
    return np.array(found)


def test_captions_equal_the_loop_with_gradients():
    image, text = (torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in random_pairs(24, D=3))
    frozen = torch.nn.functional.normalize(text.detach() + 0.5 * double(random_pairs(24, D=3, seed=4)[0]))
    weights = torch.rand(24, dtype=torch.float64)
    value = build("conr", {"tau": 0.3, "e": 1.5})(image=image, text=text, frozen_text=frozen, weights=weights)
    truth, seen = (1 - (x @ x.T).detach().numpy() for x in (frozen, text))
    near = (truth <= 0.25) | np.eye(24, dtype=bool)
    push = np.where(~near & (seen <= 0.25), 1.5 * truth, -np.inf)
    assert 20 < (push > -np.inf).sum() < 200
    s = (image @ text.T / 0.3).detach().numpy()
    w = weights.numpy() / weights.sum().item()
    expected = ((anchors(s, near, push) + anchors(s.T, near, push)) * w).sum() / 2
    assert value.item() == pytest.approx(expected, rel=1e-12)

    def dense(image, text):
        s = image @ text.T / 0.3
        total = 0
        for z in (s, s.T):
            z = z + torch.where(torch.tensor(near), 0.0, torch.tensor(push))
            pulled = torch.where(torch.tensor(near), z, 0.0).sum(1) / torch.tensor(near.sum(1))
            each = torch.where(torch.tensor((push > -np.inf).any(1)), z.logsumexp(1) - pulled, 0.0)
            total = total + (each * torch.tensor(w)).sum() / 2
        return total

    for mine, other in zip(*(torch.autograd.grad(v, (image, text)) for v in (value, dense(image, text)))):
        torch.testing.assert_close(mine, other, **bounds.near())


def ready(fields, width=4):
    torch.manual_seed(0)
    objective = build("conr_target", fields)
    objective.setup(Facts(width=width))
    return objective.double()


@pytest.mark.parametrize("fields", [{}, {"rarity": "inverse", "e": 0.7}, {"quantile": 0.2, "window": 9.0}])
def test_targets_equal_the_loop(fields):
    """Of 30 samples 5 have no target: they are no anchors and nobody's negatives."""
    g = torch.Generator().manual_seed(3)
    image = torch.nn.functional.normalize(torch.randn(30, 4, generator=g, dtype=torch.float64)).requires_grad_()
    target = 3 * torch.randn(30, generator=g, dtype=torch.float64)
    target[[0, 7, 8, 20, 29]] = torch.nan
    weights = torch.rand(30, generator=g, dtype=torch.float64) + 0.1
    objective = ready({"tau": 0.4, "regress": 0.5, **fields})
    value = objective(image=image, target=target, weights=weights)
    there = target.isfinite().numpy()
    x, y, w = (part.detach().numpy()[there] for part in (image, target, weights))
    mean, sd = y.mean(), y.std()
    told = (x @ objective.told.weight.detach().numpy().T)[:, 0] + objective.told.bias.item()
    p, truth = mean + sd * told, np.abs(y[:, None] - y)
    window = fields.get("window", 1.0)
    if "quantile" in fields:
        window = np.quantile(truth, 0.2)
    near = (truth <= window) & ~np.eye(25, dtype=bool)
    confused = (truth > window) & (np.abs(p[:, None] - p) <= window)
    push = np.where(confused, fields.get("e", 0.01) * truth, -np.inf)
    eta = None
    if "rarity" in fields:
        eta = 1 / (1 + near.sum(1))
        eta = eta / eta.mean()
    each = anchors(x @ x.T / 0.4, near, push, eta) + 0.5 * np.abs(p - y) / sd
    limit = 1e-12 if "quantile" not in fields else 2e-2  # a quantile is found in steps
    assert value.item() == pytest.approx((each * w).sum() / w.sum(), rel=limit)
    (slope,) = torch.autograd.grad(value, image)
    assert slope[~torch.tensor(there)].eq(0).all()


def test_masks_and_targets_carry_no_gradient():
    """The regression head learns from its own loss alone."""
    objective = ready({"regress": 0.0})
    image = double(random_pairs(20, D=4)[0]).requires_grad_()
    value = objective(image=image, target=torch.arange(20.0) / 4, weights=torch.ones(20))
    slopes = torch.autograd.grad(value, list(objective.parameters()))
    assert all(slope.eq(0).all() for slope in slopes)


def test_bystanders_have_no_gradient():
    """Who is neither near nor confused with anybody has none: distances along a line, all far apart but two."""
    image, text = (double(side).requires_grad_() for side in random_pairs(12, D=12))
    frozen = torch.eye(12, dtype=torch.float64)
    value = build("conr", {"tau": 0.5, "window": 0.02})(
        image=image, text=text, frozen_text=frozen, weights=torch.ones(12)
    )
    assert value == 0  # the model finds no two captions alike
    close = text.detach().clone()
    close[1] = torch.nn.functional.normalize(close[0] + 1e-3 * close[1], dim=0)
    close.requires_grad_()
    value = build("conr", {"tau": 0.5, "window": 0.02})(
        image=image, text=close, frozen_text=frozen, weights=torch.ones(12)
    )
    for slope in torch.autograd.grad(value, (image, close)):
        assert (slope[:2].abs().sum(1) > 0).all()
        assert slope[2:].eq(0).all()


def test_where_the_model_finds_all_captions_alike_it_is_clip():
    image, text = random_pairs(10)
    image = double(image).requires_grad_()
    middle = torch.nn.functional.normalize(double(text[:1]) + 0.05 * double(text))
    frozen = torch.eye(10, dtype=torch.float64)
    fields = {"tau": 0.2, "e": 0.0, "window": 0.5}
    value = build("conr", fields)(image=image, text=middle, frozen_text=frozen, weights=torch.ones(10))
    assert value.item() == pytest.approx(evaluate("clip", (image.tolist(), middle.tolist()), 0.2).item(), rel=1e-9)
    pushed = build("conr", {**fields, "e": 1.0})(image=image, text=middle, frozen_text=frozen, weights=torch.ones(10))
    assert pushed > value


def test_a_model_that_is_its_own_teacher_is_told():
    image, text = (double(side).requires_grad_() for side in random_pairs(8))
    with pytest.warns(UserWarning, match="conr: the frozen captions are the model's own.* set teacher"):
        value = build("conr", {})(image=image, text=text, frozen_text=text.detach(), weights=torch.ones(8))
    assert value == 0


def test_a_window_that_holds_nobody_is_told():
    objective = ready({"window": 1e-3})
    image = double(random_pairs(40, D=4)[0]).requires_grad_()
    with pytest.warns(UserWarning, match="conr_target: no two of 40 targets differ by 0.001 or less.* set window"):
        objective(image=image, target=torch.arange(40.0), weights=torch.ones(40))


def test_without_targets_nothing_is_learnt_and_nothing_breaks():
    objective = ready({})
    image = double(random_pairs(6, D=4)[0]).requires_grad_()
    value = objective(image=image, target=torch.full((6,), torch.nan), weights=torch.ones(6))
    assert value == 0
    slopes = torch.autograd.grad(value, [image, *objective.parameters()])
    assert all(slope.eq(0).all() for slope in slopes)


def test_moments_grow_with_the_steps_that_were_made():
    objective = ready({})
    image = double(random_pairs(6, D=4)[0]).requires_grad_()
    for target in ([1, 2, 3, 4, 5, 6], [7, 8, 9, math.nan, math.nan, math.nan]):
        objective(image=image, target=double(target), weights=torch.ones(6))
        objective.after_step()
    assert objective.moments.tolist() == [9, 45, 285]


def test_a_quantile_of_distances():
    x = torch.rand(700, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = (x[:, None] - x).abs().flatten()
    for share in (0.01, 0.3, 0.9):
        found = distance_quantile(difference(x), 700, share, 1.0)
        assert (whole <= found).double().mean().item() == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(
    ("key", "fields", "said"),
    [
        ("conr", {"window": 0}, "window and tau are above 0"),
        ("conr_target", {"quantile": 1.0}, "quantile is a share"),
    ],
)
def test_settings_that_mean_nothing_are_refused(key, fields, said):
    with pytest.raises(ConfigError, match=said):
        build(key, fields)
