"""clip against open_clip's loss, torch's cross-entropy, and the worked numbers of ConVIRT."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import build
from tests import bounds


def batch(b, D=16, seed=0, dtype=torch.float32, **changes):
    g = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(b, D, generator=g, dtype=torch.float64), dim=1).to(dtype) for _ in "ab")
    ids = torch.arange(b)
    return {
        "image": image.requires_grad_(),
        "text": text.requires_grad_(),
        "scale": torch.tensor(14.3, dtype=dtype).requires_grad_(),
        "image_id": ids,
        "caption_id": ids,
        "weights": torch.ones(b, dtype=dtype),
    } | changes


def gradients(loss, features):
    return torch.autograd.grad(loss, [features[name] for name in ("image", "text", "scale")])


@pytest.mark.parametrize("b", [1, 2, 5, 300, 1500])
def test_equals_open_clip_value_and_gradients(b):
    open_clip = pytest.importorskip("open_clip")
    features = batch(b)
    ours = build("clip", {})(**features)
    theirs = open_clip.ClipLoss()(features["image"], features["text"], features["scale"])
    torch.testing.assert_close(ours, theirs, rtol=bounds.bound(terms=16), atol=bounds.bound(terms=16))
    for mine, other in zip(gradients(ours, features), gradients(theirs, features)):
        assert (mine - other).norm() <= bounds.bound(terms=4, size=14.3) * other.norm() + bounds.bound(terms=4)


def test_equal_captions_and_equal_pictures_are_not_negatives():
    b, ids = 40, torch.arange(40)
    features = batch(b, dtype=torch.float64, image_id=ids // 2 * 2, caption_id=ids // 10)
    same = (features["image_id"][:, None] == features["image_id"]) | (ids[:, None] // 10 == ids // 10)
    s = (features["scale"] * features["image"] @ features["text"].T).masked_fill(same & ~torch.eye(b).bool(), -math.inf)
    dense = (F.cross_entropy(s, ids) + F.cross_entropy(s.T, ids)) / 2
    ours = build("clip", {})(**features)
    torch.testing.assert_close(ours, dense, **bounds.near())
    for mine, other in zip(gradients(ours, features), gradients(dense, features)):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_sample_weights_weigh_both_directions():
    weights = torch.rand(30, dtype=torch.float64)
    features = batch(30, dtype=torch.float64, weights=weights)
    s, ids = features["scale"] * features["image"] @ features["text"].T, torch.arange(30)
    each = (F.cross_entropy(s, ids, reduction="none") + F.cross_entropy(s.T, ids, reduction="none")) / 2
    torch.testing.assert_close(build("clip", {})(**features), (weights * each).sum() / weights.sum())


@pytest.mark.parametrize(("tau", "weight", "value"), [(0.5, 0.75, 0.936797), (0.5, 1, 0.946698), (0.1, 0.75, 1.956388)])
def test_worked_numbers_of_convirt(tau, weight, value):
    features = batch(3)
    features |= {
        "image": torch.tensor([[1, 0], [0, 1], [0.6, 0.8]]),
        "text": torch.tensor([[0.8, 0.6], [-0.6, 0.8], [1, 0]]),
        "scale": torch.tensor(1 / tau),
    }
    assert build("clip", {"image_weight": weight})(**features).item() == pytest.approx(value, abs=bounds.printed(6))


@pytest.mark.parametrize("duplicates", ["mask", "negative"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_that_of_torch(smoothing, duplicates):
    features = batch(25, dtype=torch.float64)
    s, ids = features["scale"] * features["image"] @ features["text"].T, torch.arange(25)
    dense = sum(F.cross_entropy(m, ids, label_smoothing=smoothing) for m in (s, s.T)) / 2
    ours = build("clip", {"label_smoothing": smoothing, "duplicates": duplicates})(**features)
    torch.testing.assert_close(ours, dense, **bounds.near())
    for mine, other in zip(gradients(ours, features), gradients(dense, features)):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_smoothing_goes_to_what_is_told_apart_only():
    """With equal captions masked, an image's target is spread over the other columns, as if these were all."""
    features = batch(12, dtype=torch.float64, caption_id=torch.arange(12) // 3)
    s, kept = features["scale"] * features["image"] @ features["text"].T, torch.eye(12).bool()
    kept = kept | (features["caption_id"][:, None] != features["caption_id"])
    rows = [
        F.cross_entropy(m[i][k][None], k[:i].sum()[None], label_smoothing=0.3)
        for m in (s, s.T)
        for i, k in enumerate(kept)
    ]
    ours = build("clip", {"label_smoothing": 0.3})(**features)
    torch.testing.assert_close(ours, torch.stack(rows).mean(), **bounds.near())


def test_exchanging_the_sides_exchanges_the_directions():
    features = batch(9, dtype=torch.float64)
    exchanged = features | {"image": features["text"], "text": features["image"]}
    one, other = (build("clip", {"image_weight": w}) for w in (0.8, 0.2))
    torch.testing.assert_close(one(**features), other(**exchanged), **bounds.near())


def test_a_small_loss_keeps_its_digits():
    """lse - pos cancels once pairs align; the negatives' own statistic does not."""
    features = batch(300, D=64, dtype=torch.float32)
    noise = torch.randn(300, 64, generator=torch.Generator().manual_seed(5))
    features |= {
        "text": F.normalize(features["image"] + 0.01 * noise, dim=1).detach().requires_grad_(),
        "scale": torch.tensor(60.0).requires_grad_(),
    }
    wide = {n: x.detach().double().requires_grad_() if x.is_floating_point() else x for n, x in features.items()}
    exact, ours = build("clip", {})(**wide), build("clip", {})(**features)
    assert exact < 1e-6
    limit = bounds.bound(terms=16, size=60)
    torch.testing.assert_close(ours.double(), exact, rtol=limit, atol=0)
    for mine, other in zip(gradients(ours, features), gradients(exact, wide)):
        assert (mine.double() - other).norm() <= limit * other.norm()


def test_what_all_pictures_share_cancels_as_well_as_it_does_written_out():
    """Gradients of pairs sum to about zero where features are nearly equal, so a rounding that all share is seen."""
    errors = {"ours": [], "plain": []}
    for seed in range(12):
        features = batch(64, D=128, seed=seed)
        for name in ("image", "text"):
            whole = features[name].detach()
            features[name] = F.normalize(whole + 3.0 * whole[:1], dim=1).requires_grad_()
        features["scale"] = torch.tensor(9.0 + 0.7 * seed, requires_grad=True)
        exact = {n: f.detach().double().requires_grad_() if f.is_floating_point() else f for n, f in features.items()}
        losses = {name: build("clip", {})(**f) for name, f in (("ours", features), ("true", exact))}
        logits = features["scale"] * features["image"] @ features["text"].T
        target = torch.arange(64)
        losses["plain"] = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        shared = {
            name: [g.double().sum(0) for g in gradients(loss, exact if name == "true" else features)[:2]]
            for name, loss in losses.items()
        }
        for name in errors:
            errors[name] += [float((a - b).norm()) for a, b in zip(shared[name], shared["true"])]
    # Each mean of 24 errors scatters by a tenth of itself, and a matmul of another CPU rounds otherwise: 1.21 was seen.
    assert sum(errors["ours"]) <= 2 * sum(errors["plain"])
