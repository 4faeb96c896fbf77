"""isogclr: the card's numbers, gradients and temperatures against the dense formulas, and what a visit changes."""

import math

import pytest
import torch

from mmclr.losses import Facts, build
from tests import bounds
from tests.losses.cards import GAP, batch, random_pairs

LIBAUC = {"tau": 0.5, "gamma": 1.0, "eta": 0.01, "beta": 0.9, "clip": 100.0}


def ready(fields, samples=50):
    objective = build("isogclr", fields)
    objective.setup(Facts(samples=samples))
    return objective


def call(objective, pairs, index=None, **more):
    features = batch(pairs, **more)
    features["index"] = torch.arange(len(features["image"])) if index is None else index
    return objective(**{name: features[name] for name in objective.needs}), features


def state(objective, rows):
    """Return log s, momentum and temperature of samples, [3, n, 2]."""
    return objective.samples.read(rows).double().unflatten(1, (3, 2)).transpose(0, 1)


def dense(features, tau):
    """Return h [2, B, B] of image and text anchors, and which pairs are negatives."""
    s = features["image"] @ features["text"].T
    h = torch.stack([s, s.T]) - s.diagonal()[:, None]
    return h, ~torch.eye(len(s)).bool()


@pytest.mark.parametrize(("rho", "value"), [(0.0, -0.357486), (0.3, -0.057486)])
def test_the_global_objective(rho, value):
    found, _ = call(ready({**LIBAUC, "rho": rho, "tau_max": 1.0}), GAP)
    assert found.item() == pytest.approx(value, abs=bounds.printed(6))


def test_a_step_of_libauc():
    """s relative to its guard b in the card; temperatures after one step with rho 6."""
    objective = ready({**LIBAUC, "rho": 6.0})
    call(objective, GAP)
    objective.after_step()
    log_s, momentum, tau = state(objective, torch.arange(3))
    stored, guard = torch.tensor([0.520381, 0.436108, 0.628330]), torch.tensor([0.4, 0.0, 0.72])
    torch.testing.assert_close(log_s[:, 0], stored.log().double() + guard, rtol=0, atol=bounds.bound(terms=32))
    torch.testing.assert_close(
        log_s[:, 1].exp(), torch.tensor([1.023724, 0.207132, 1.263368]).double(), rtol=0, atol=bounds.bound(terms=32)
    )
    slopes = torch.tensor([[5.472136, 5.847906, 5.813078], [5.939170, 5.723954, 5.672187]]).double()
    torch.testing.assert_close(momentum.T, slopes * 0.9, rtol=0, atol=bounds.printed(6))
    torch.testing.assert_close(
        tau[:, 0], torch.tensor([0.450751, 0.447369, 0.447682]).double(), rtol=0, atol=bounds.bound(terms=32)
    )


def test_the_temperatures_slope_is_the_derivative_of_the_objective():
    objective = ready({**LIBAUC, "rho": 0.3})
    call(objective, GAP)
    objective.after_step()
    expected = torch.tensor([-0.227864, 0.147906, 0.113078]).double()
    torch.testing.assert_close(
        state(objective, torch.arange(3))[1][:, 0] / 0.9, expected, rtol=0, atol=bounds.bound(terms=32)
    )


@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_gradients_are_the_papers(gamma):
    """L = mean 1/(B-1) sum_j sg[exp(h / tau) / s] h, after a first visit with other features."""
    objective = ready({"tau": 0.3, "gamma": gamma, "rho": 2.0})
    call(objective, random_pairs(12, seed=1))
    objective.after_step()
    before = state(objective, torch.arange(12))
    value, features = call(objective, random_pairs(12))
    tau = before[2].T[:, :, None]
    h, off = dense(features, tau)
    g = torch.where(off, (h / tau).exp(), 0.0).sum(2) / 11
    s = (1 - gamma) * before[0].T.exp() + gamma * g
    weights = torch.where(off, (h / tau).exp() / s[:, :, None], 0.0).detach()
    loss = (weights * h).sum(2).mean(1).sum() / 11
    leaves = (features["image"], features["text"])
    for mine, other in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(loss, leaves)):
        torch.testing.assert_close(mine, other, rtol=bounds.bound(terms=16), atol=1e-9)
    assert value.item() == pytest.approx(
        (tau[:, :, 0] * (s.log() + 2)).mean(1).sum().item(), rel=bounds.bound(terms=16)
    )


def test_with_still_temperatures_it_is_dcl():
    """gamma 1, eta 0: the gradient of 2 t dcl."""
    value, features = call(ready({"tau": 0.2, "gamma": 1.0, "eta": 0.0, "rho": 0.0}), random_pairs(9))
    plain = batch(random_pairs(9), 0.2)
    other = build("dcl", {})(**{name: plain[name] for name in build("dcl", {}).needs})
    assert value.item() == pytest.approx(0.4 * (other.item() - math.log(8)), rel=bounds.bound(terms=16))
    for name in ("image", "text"):
        (mine,) = torch.autograd.grad(value, features[name], retain_graph=True)
        (theirs,) = torch.autograd.grad(0.4 * other, plain[name], retain_graph=True)
        torch.testing.assert_close(mine, theirs, rtol=bounds.bound(terms=16), atol=1e-9)


def test_the_slope_is_rho_less_a_divergence():
    """gamma 1: rho - KL(softmax || uniform), between rho - log(B-1) and rho; features' gradients do not see rho."""
    found = {}
    for rho in (0.5, 3.0):
        objective = ready({**LIBAUC, "rho": rho})
        value, features = call(objective, random_pairs(12))
        found[rho] = torch.autograd.grad(value, features["image"])[0]
        objective.after_step()
        slope = state(objective, torch.arange(12))[1] / 0.9
        h, off = dense(features, 0.5)
        p = (h / 0.5).masked_fill(~off, -torch.inf).softmax(2)
        divergence = torch.special.entr(p).sum(2).neg() + math.log(11)
        torch.testing.assert_close(
            slope.T, rho - divergence, rtol=bounds.bound(terms=512), atol=bounds.bound(terms=512)
        )
    torch.testing.assert_close(found[0.5], found[3.0])


def test_only_the_batchs_samples_change_and_temperatures_stay_in_range():
    objective = ready({"tau": 0.02, "tau_min": 0.01, "tau_max": 0.03, "eta": 0.5})
    index = torch.tensor([7, 3, 30, 11])
    for seed in range(4):
        call(objective, random_pairs(4, seed=seed), index)
        objective.after_step()
    log_s, momentum, tau = state(objective, torch.arange(50))
    touched = torch.zeros(50, dtype=torch.bool).scatter(0, index, True)
    assert (log_s[~touched] == -torch.inf).all()
    assert (momentum[~touched] == 0).all()
    assert log_s[touched].isfinite().all()
    assert ((tau >= 0.01 - 1e-7) & (tau <= 0.03 + 1e-7)).all()
    assert not any(True for _ in objective.parameters())


def test_frequent_semantics_get_higher_temperatures():
    """Six of 24 are alike, the others far from everything."""
    image, text = random_pairs(24, D=64)
    for side in (image, text):
        crowd = 4 * torch.tensor(image[0]) + torch.tensor(side[:6])
        side[:6] = torch.nn.functional.normalize(crowd, dim=1).tolist()
    objective = ready({"tau": 0.1, "rho": 0.8, "eta": 0.01, "gamma": 0.9})
    for _ in range(20):
        call(objective, (image, text))
        objective.after_step()
    tau = state(objective, torch.arange(24))[2]
    assert tau[:6].min() > tau[6:].max()


def test_duplicates_are_no_negatives():
    ids = torch.tensor([0, 0, *range(2, 10)])
    value, features = call(ready({"tau": 0.2, "gamma": 1.0, "rho": 0.0}), random_pairs(10), caption_id=ids)
    h, _ = dense(features, 0.2)
    off = (ids[:, None] != ids).double()
    g = ((h / 0.2).exp() * off).sum(2) / off.sum(1)
    assert value.item() == pytest.approx(0.2 * g.log().mean(1).sum().item(), rel=bounds.bound(terms=16))


def test_blank_rows_are_not_written():
    objective = ready({})
    call(objective, random_pairs(3), torch.tensor([5, -1, 6]), weights=torch.tensor([1.0, 0.0, 1.0]).double())
    objective.after_step()
    assert (state(objective, torch.arange(50))[0].isfinite().all(1).nonzero()[:, 0] == torch.tensor([5, 6])).all()
