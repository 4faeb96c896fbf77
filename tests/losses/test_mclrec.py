"""mclrec: the card's NT-Xent and R, where each gradient goes, and steps in which augmenters rest."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.errors import UserError
from mmclr.losses import Facts, build
from mmclr.losses.algebra import Pairs
from mmclr.losses.views.mclrec import clip, hardness, nt_xent, twice
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

U, V = [(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.6, 0.8)]
UT, VT = [(0.8, -0.6), (0.8, 0.6), (-0.6, 0.8)], [(0.6, 0.8), (0, 1), (-0.8, 0.6)]


def points(*sides):
    return [torch.tensor(side, dtype=torch.float64) for side in sides]


def made(fields=None, width=8):
    torch.manual_seed(0)
    objective = build("mclrec", fields or {})
    objective.setup(Facts.example(width=width))
    return objective.double()


def call(objective, pairs, tau=0.5, **more):
    features = batch(pairs, tau, **more)
    features["scale"].requires_grad_()
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_numbers_of_the_card():
    u, v, ut, vt = points(U, V, UT, VT)
    one, same, weights = torch.tensor(1.0).double(), twice(3, u.device), torch.ones(3).double()
    assert nt_xent(u, v, one, same, weights).item() == pytest.approx(1.375590, abs=bounds.printed(6))
    assert hardness(u, v, same, weights).item() == pytest.approx(0.533333, abs=bounds.printed(6))
    views = [(u, vt), (v, ut), (ut, vt)]
    found = [nt_xent(x, y, one, same, weights).item() for x, y in views]
    assert found == pytest.approx([1.470233, 1.313478, 1.390209], abs=bounds.printed(6))
    total = sum(hardness(x, y, same, weights).item() for x, y in views)
    assert total == pytest.approx(2.133333, abs=bounds.printed(6))
    assert sum(found) + 0.1 * total == pytest.approx(4.387253, abs=3 * bounds.printed(6))


@pytest.mark.parametrize("ids", [None, torch.tensor([0, 0, 1, 2, 1, 3, 4, 4, 4])])
def test_hardness_equals_the_matrix_written_out(ids):
    """With equal captions left out of the negatives; values and gradients."""
    x, y = (side.requires_grad_() for side in points(*random_pairs(9)))
    weights = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = hardness(x, y, twice(9, x.device, *([] if ids is None else [ids])), weights)
    z, own = torch.cat([x, y]), torch.arange(9).repeat(2)
    same = own[:, None] == own if ids is None else ids.repeat(2)[:, None] == ids.repeat(2)
    s, p = z @ z.T, (x * y).sum(1).repeat(2)
    hardest = s.masked_fill(same, -torch.inf).amax(1)
    above = torch.maximum(p, hardest)[:, None] - s
    each = (p - hardest).clamp_min(0) + above.masked_fill(same, 0).sum(1) / (~same).sum(1)
    expected = (each * weights.repeat(2)).sum() / weights.sum() / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, (x, y))):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_hardness_is_zero_where_negatives_are_equal_and_the_positive_is_not_above():
    x, y = points([(1, 0), (0, 1)], [(-1, 0), (0, -1)])  # pairs at -1, all others at 0
    assert hardness(x, y, twice(2, x.device), torch.ones(2).double()).item() == 0
    u, v = points(*random_pairs(8))
    same, weights = twice(8, u.device), torch.ones(8).double()
    assert hardness(3 * u, v, same, weights) > 0


@pytest.mark.parametrize("fields", [{}, {"ntxent": True}, {"gamma": 0.0}, {"beta": 0.0}])
def test_equal_to_its_parts(fields):
    """Value and gradients of one backward: towers see constant augmenters, augmenters see constant features."""
    objective, ids = made(fields), torch.arange(9) // 2
    value, features = call(objective, random_pairs(9), caption_id=ids)
    beta, gamma = fields.get("beta", 0.1), fields.get("gamma", 0.1)
    same, weights = twice(9, value.device, ids), torch.ones(9).double()
    equal = ids[:, None] == ids

    def contrast(x, y, scale):
        z = torch.cat([x, y]) if "ntxent" in fields else None
        if z is not None:
            none = equal.repeat(2, 2)
            rest = (scale * z @ z.T).masked_fill(none, -torch.inf).logsumexp(1)
            return F.softplus(rest - (scale * (x * y).sum(1)).repeat(2)).mean()
        s = scale * x @ y.T
        rest = [m.masked_fill(equal, -torch.inf).logsumexp(1) for m in (s, s.T)]
        return sum(F.softplus(r - s.diagonal()).mean() for r in rest) / 2

    def augmented(u, v, scale):
        ut, vt = objective.of_image(u), objective.of_text(v)
        views = ((u, vt), (ut, v), (ut, vt))
        return sum(contrast(x, y, scale) + gamma * hardness(x, y, same, weights) for x, y in views)

    image, text, scale = (features[name] for name in ("image", "text", "scale"))
    towers = contrast(image, text, scale) + beta * augmented(image, text, scale)
    own = augmented(image.detach(), text.detach(), scale.detach())
    assert value.item() == pytest.approx((towers + own).item(), rel=1e-12)
    leaves, weights_of = [image, text, scale], list(objective.parameters())
    for mine, other in zip(torch.autograd.grad(value, leaves, retain_graph=True), torch.autograd.grad(towers, leaves)):
        torch.testing.assert_close(mine, other, **bounds.near())
    for mine, other in zip(torch.autograd.grad(value, weights_of), torch.autograd.grad(own, weights_of)):
        torch.testing.assert_close(mine, other, **bounds.near())
        assert mine.any()


def test_without_beta_towers_learn_as_with_clip():
    value, features = call(made({"beta": 0.0}), random_pairs(9), 0.2)
    mine = torch.autograd.grad(value, (features["image"], features["scale"]))
    other = batch(random_pairs(9), 0.2)
    other["scale"].requires_grad_()
    plain = build("clip", {})
    value = plain(**{name: other[name] for name in plain.needs})
    for a, b in zip(mine, torch.autograd.grad(value, (other["image"], other["scale"]))):
        torch.testing.assert_close(a, b, **bounds.near())


def test_contrast_is_clips():
    u, v = points(*random_pairs(7))
    found = clip(u, v, torch.tensor(5.0).double(), Pairs(), torch.ones(7).double())
    assert found.item() == pytest.approx(evaluate("clip", random_pairs(7), 0.2).item(), rel=1e-12)


def test_augmenters_rest_between():
    """Their gradient is 0 then, not absent; the count of steps is in the state."""
    objective = made({"every": 3})
    learns = []
    for _ in range(6):
        value, _ = call(objective, random_pairs(9))
        grads = torch.autograd.grad(value, list(objective.parameters()))
        learns.append(any(g.any() for g in grads))
        objective.after_step()
    assert learns == [True, False, False] * 2
    assert objective.state_dict()["step"] == 6


@pytest.mark.parametrize("fields", [{"beta": -1.0}, {"every": 0}])
def test_fields_that_make_no_sense_are_refused(fields):
    with pytest.raises(UserError, match="beta and gamma are at least 0"):
        build("mclrec", fields)
