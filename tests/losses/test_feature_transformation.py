"""feature_transformation: the card's scores, mixes and rows, draws and their distribution, and what no negative is."""

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from mmclr.errors import UserError
from mmclr.losses import build
from mmclr.losses.algebra import Either, Pairs
from mmclr.losses.hard import feature_transformation
from mmclr.losses.hard.feature_transformation import extrapolate, interpolate, mixed_with, symmetric_beta
from tests import bounds
from tests.losses.cards import F3, batch, random_pairs

LATE = torch.tensor(0.5)


def call(fields, pairs, tau=0.5, progress=LATE, **more):
    torch.manual_seed(0)
    features = batch(pairs, tau, progress=progress, **more)
    features.setdefault("index", torch.arange(len(features["image"])))
    objective = build("feature_transformation", fields)
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_numbers_of_the_card():
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    u, v = extrapolate(image, text, torch.full((3, 1), 1.5, dtype=torch.float64))
    scores = (u * v).sum(1)
    assert scores.tolist() == pytest.approx([0.5, 0.5, 0.9])
    for anchor, rows in ((image, [0.456168, 1.554072, 1.018925]), (u, [0.272764, 1.695392, 1.090086])):
        others = (2 * anchor @ text.T).masked_fill(torch.eye(3).bool(), -torch.inf).logsumexp(1)
        assert F.softplus(others - 2 * scores).tolist() == pytest.approx(rows, abs=bounds.printed(6))
    mixed = interpolate(text, torch.full((3, 1), 0.25, dtype=torch.float64), torch.tensor([1, 2, 0]))
    torch.testing.assert_close(mixed, torch.tensor([[0.2, 0.9], [-0.21, 0.97], [0.53, 0.69]], dtype=torch.float64))
    assert mixed.norm(dim=1).tolist() == pytest.approx([0.921954, 0.992472, 0.870057], abs=bounds.printed(6))


def test_a_number_for_each_pair_changes_its_score_by_the_closed_form():
    u, v = (torch.tensor(side, dtype=torch.float64) for side in random_pairs(20))
    lam = torch.linspace(1, 2, 20, dtype=torch.float64)[:, None]
    a, b = extrapolate(u, v, lam)
    s = (u * v).sum(1)
    torch.testing.assert_close((a * b).sum(1), s - 2 * lam[:, 0] * (lam[:, 0] - 1) * (1 - s))
    assert ((a * b).sum(1) <= s + 1e-12).all()
    assert (a * b).sum(1)[-1].item() == pytest.approx(5 * s[-1].item() - 4)


def test_before_it_begins_it_is_clip():
    value, _ = call({"begin": 0.6}, F3)
    assert value.item() == pytest.approx(0.815062, abs=bounds.printed(6))


@pytest.mark.parametrize("fields", [{}, {"mode": "official"}, {"per_dimension": False, "duplicates": "negative"}])
def test_equal_to_the_matrices_written_out(fields, monkeypatch):
    """With the same draws: values and gradients."""
    made = []
    monkeypatch.setattr(feature_transformation, "symmetric_beta",
                        lambda *a: made.append(symmetric_beta(*a)) or made[-1])  # fmt: skip
    b, tau = 14, 0.2
    image_id, caption_id = torch.arange(b) // 2, torch.arange(b) % 9
    value, features = call(fields, random_pairs(b), tau, image_id=image_id, caption_id=caption_id)
    torch.manual_seed(0)
    pi = feature_transformation.sample_random.partners(
        features["index"], feature_transformation.sample_random.seed(features["index"])
    )
    image, text = features["image"], features["text"]
    lam, *mus = made
    assert all(draw.shape == (b, 1 if "per_dimension" in fields else 8) for draw in made)
    u, v = (1 + lam) * image - lam * text, (1 + lam) * text - lam * image
    equal = torch.eye(b).bool()
    if "duplicates" not in fields:
        equal = equal | (image_id[:, None] == image_id) | (caption_id[:, None] == caption_id)
    none = equal | equal[:, pi]
    total = 0
    for x, moved, y, mu in ((image, u, text, mus[0]), (text, v, image, mus[1])):
        mixed = mu * y + (1 - mu) * y[pi]
        logits = ((moved if "mode" in fields else x) @ mixed.T / tau).masked_fill(none, -torch.inf)
        total = total + F.softplus(logits.logsumexp(1) - (u * v).sum(1) / tau).mean() / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(value, (image, text)), torch.autograd.grad(total, (image, text))):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_no_negative_has_a_part_of_the_anchor():
    pi = torch.tensor([1, 2, 3, 0])
    keep = Either(Pairs(), *mixed_with(pi)).keep(slice(0, 4), slice(0, 4), torch.empty(4, 4))
    assert keep.tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("a", [0.6, 1.0, 1.6, 2.0, 9.0])
def test_draws_are_of_the_beta_distribution(a):
    """Kolmogorov and Smirnov's test at one in a million; the ends are within 0 and 1."""
    uniforms = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    draws = symmetric_beta(uniforms, a)
    assert stats.kstest(draws[:, 0].numpy(), stats.beta(a, a).cdf).pvalue > 1e-6
    assert ((draws >= 0) & (draws <= 1)).all()
    ends = symmetric_beta(torch.tensor([[0.0, 0.0], [0.0, 0.5], [1 - 2**-53, 0.3]], dtype=torch.float64), a)
    assert ((ends >= 0) & (ends <= 1)).all()


@pytest.mark.parametrize("b", [1, 2])
def test_batches_without_a_negative_left_are_finite(b):
    value, features = call({}, random_pairs(b))
    assert value.isfinite()
    assert torch.autograd.grad(value, features["image"])[0].isfinite().all()


@pytest.mark.parametrize("name", ["a_pos", "a_neg"])
def test_a_distribution_that_cannot_be_drawn_is_refused(name):
    with pytest.raises(UserError, match=f"{name} is above 0.5"):
        build("feature_transformation", {name: 0.5})
