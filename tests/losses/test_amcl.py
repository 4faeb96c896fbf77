"""amcl: the card's numbers in both forms, bounds of temperatures, and several heads as one vector."""

import math

import pytest
import torch
from torch import nn

from mmclr.heads.multi import MultiHead
from mmclr.losses import Facts, build
from mmclr.losses.algebra import Pairs
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs

CARD = {"tau_min": 1e-5, "tau_max": 2.0, "beta": 0.01, "out": 2}


def ready(fields, width=2):
    torch.manual_seed(0)
    objective = build("amcl", {"heads": 1, "hidden": 16, "out": width, **fields})
    objective.setup(Facts(width=width))
    return objective.double()


def in_a_head(fields, pairs, same=None, told=None):
    """Return the loss of each pair in one head whose features are the points, both directions halved."""
    objective = ready(fields, len(pairs[0][0]))
    objective.told = told or nn.Identity()
    x, y = (torch.tensor(side, dtype=torch.float64).requires_grad_() for side in pairs)
    return objective._contrast(x, y, same or Pairs()), x, y


def test_the_temperatures_of_the_card():
    expected = [[0.620058, 1.000005, 1.139097], [0.553764, 0.620058, 0.708694], [0.708694, 0.53789, 0.553764]]
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    found = ready(CARD)._temperature(image @ text.T)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6))
    assert ready(CARD)._penalty(found.diagonal()).tolist() == pytest.approx(
        [1.134810, 1.134810, 1.214807], abs=bounds.printed(6)
    )


@pytest.mark.parametrize(
    ("fields", "value"), [({"form": "top", "k": 1}, -0.099334), ({"form": "top", "k": 2}, -0.608343), ({}, 0.879990)]
)
def test_the_losses_of_the_card(fields, value):
    assert in_a_head({**CARD, **fields}, F3)[0].mean().item() == pytest.approx(value, abs=bounds.printed(6))


def dense(x, y, told, fields, d):
    """Both forms with the whole matrix, as the formula says."""
    s, r = x @ y.T, told(x) @ told(y).T
    t = fields["tau_min"] + (fields["tau_max"] - fields["tau_min"]) * (-r).sigmoid()
    penalty = d / 2 * t.log() + 1 / t
    z, off = s / t, ~torch.eye(len(s)).bool()
    total = fields["beta"] * penalty.diagonal().mean()
    for logits, scores, costs in ((z, s, penalty), (z.T, s.T, penalty.T)):
        if fields.get("form") == "top":
            chosen = scores.masked_fill(~off, -2).topk(fields["k"], 1).indices
            push = logits.gather(1, chosen).mean(1) - fields["beta"] * costs.gather(1, chosen).sum(1)
            total = total + (push - logits.diagonal()).mean() / 2
        else:
            total = total + torch.nn.functional.cross_entropy(logits, torch.arange(len(s))) / 2
    return total


@pytest.mark.parametrize("form", [{}, {"form": "top", "k": 3}])
def test_gradients_equal_the_dense_form(form):
    """Width 5, where d/2 is not 1; the network of temperatures has gradients, too."""
    fields = {"tau_min": 0.05, "tau_max": 0.9, "beta": 0.02, "out": 5, **form}
    told = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    loss, x, y = in_a_head(fields, random_pairs(30, D=5), told=told)
    expected = dense(x, y, told, fields, 5)
    assert loss.mean().item() == pytest.approx(expected.item(), rel=1e-11)
    leaves = (x, y, *told.parameters())
    for mine, other in zip(torch.autograd.grad(loss.mean(), leaves), torch.autograd.grad(expected, leaves)):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)


def test_with_one_temperature_it_is_clip():
    loss, _, _ = in_a_head({"tau_min": 0.5, "tau_max": 0.5, "beta": 0.0}, F3)
    assert loss.mean().item() == pytest.approx(evaluate("clip", F3, 0.5).item(), rel=1e-9)


def test_temperatures_fall_with_r_and_keep_their_bounds():
    objective = ready({"tau_min": 0.02, "tau_max": 0.8})
    r = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], requires_grad=True)
    found = objective._temperature(r)
    assert found.tolist() == sorted(found.tolist(), reverse=True)
    assert found[[0, 2, 4]].tolist() == pytest.approx([0.8, 0.41, 0.02])
    assert torch.autograd.grad(found.sum(), r)[0].isfinite().all()


@pytest.mark.parametrize("d", [2, 5])
def test_the_penalty_is_least_at_2_over_d(d):
    objective = ready({"out": d}, d)
    t = torch.tensor([1.9 / d, 2 / d, 2.1 / d], dtype=torch.float64)
    low, least, high = objective._penalty(t).tolist()
    assert least < low
    assert least < high
    assert least == pytest.approx(d / 2 * math.log(2 / d) + d / 2)


def test_heads_are_summed_and_duplicates_masked():
    objective = ready({"heads": 3, "beta": 0.1}, 8)
    ids = torch.tensor([0, 0, *range(2, 12)])
    features = batch(random_pairs(12), caption_id=ids)
    value = objective(**{name: features[name] for name in objective.needs})
    kept = ids[:, None] != ids
    total = 0
    for x, y in zip(*(objective.head.each(features[side], side) for side in ("image", "text"))):
        t = objective._temperature(objective.told(x) @ objective.told(y).T)
        z = (x @ y.T / t).masked_fill(~kept & ~torch.eye(12).bool(), -torch.inf)
        ce = sum(torch.nn.functional.cross_entropy(m, torch.arange(12)) for m in (z, z.T)) / 2
        total = total + ce + 0.1 * objective._penalty(t.diagonal()).mean()
    assert value.item() == pytest.approx(total.item(), rel=1e-9)


def test_heads_in_a_row_give_the_mean_cosine():
    torch.manual_seed(0)
    heads = MultiHead(8, 3, 16, 5).double()
    image, text = (torch.tensor(side, dtype=torch.float64) for side in random_pairs(6))
    x, y = heads(image, "image"), heads(text, "text")
    assert x.shape == (6, heads.width)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(6).double())
    several = [a @ b.T for a, b in zip(heads.each(image, "image"), heads.each(text, "text"))]
    torch.testing.assert_close(x @ y.T, sum(several) / 3)
    assert not torch.allclose(several[0], several[1], atol=0.1)


def test_all_negatives_push_both_ways_alike():
    """The form "top" with k = B - 1 and one network of temperatures: what captions push equals what images push."""
    x, y = (torch.tensor(side, dtype=torch.float64) for side in random_pairs(6))
    objective = ready({**CARD, "form": "top", "k": 5}, 8)
    told = nn.Linear(8, 8).double()
    f, g = told(x), told(y)
    there, back = objective._closest(x, y, f, g, Pairs()), objective._closest(y, x, g, f, Pairs())
    assert not torch.allclose(there, back)
    assert there.mean().item() == pytest.approx(back.mean().item(), rel=1e-12)
