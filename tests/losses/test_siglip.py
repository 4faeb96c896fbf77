"""siglip against open_clip's loss and a dense form."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import build
from tests import bounds


def batch(b, D=16, seed=0, dtype=torch.float32, scale=10.0, bias=-10.0):
    g = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(b, D, generator=g, dtype=torch.float64), dim=1).to(dtype) for _ in "ab")
    numbers = {"scale": torch.tensor(scale, dtype=dtype), "bias": torch.tensor(bias, dtype=dtype)}
    ids = {"image_id": torch.arange(b), "caption_id": torch.arange(b)}
    student = {name: x.requires_grad_() for name, x in {"image": image, "text": text, **numbers}.items()}
    return student | ids | {"weights": torch.ones(b, dtype=dtype)}


def gradients(loss, features):
    return torch.autograd.grad(loss, [features[name] for name in ("image", "text", "scale", "bias")])


@pytest.mark.parametrize("b", [1, 2, 5, 300, 1500])
def test_equals_open_clip_value_and_gradients(b):
    from open_clip.loss import SigLipLoss

    features = batch(b)
    ours = build("siglip", {})(**features)
    theirs = SigLipLoss()(features["image"], features["text"], features["scale"], features["bias"])
    torch.testing.assert_close(ours, theirs, rtol=bounds.bound(terms=16), atol=1e-9)
    for mine, other in zip(gradients(ours, features), gradients(theirs, features)):
        assert (mine - other).norm() <= bounds.bound(terms=4, size=20) * other.norm()  # scale and bias are 10


@pytest.mark.parametrize(("scale", "bias"), [(117.0, -12.0), (200.0, 3.0), (1.0, 0.0)])
def test_any_scale_equals_the_dense_form(scale, bias):
    features = batch(50, dtype=torch.float64, scale=scale, bias=bias)
    logits = features["scale"] * features["image"] @ features["text"].T + features["bias"]
    sign = 2 * torch.eye(50, dtype=torch.float64) - 1
    dense = -F.logsigmoid(sign * logits).sum() / 50
    ours = build("siglip", {})(**features)
    torch.testing.assert_close(ours, dense, **bounds.near())
    for mine, other in zip(gradients(ours, features), gradients(dense, features)):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_a_small_loss_keeps_its_digits():
    features = batch(64, D=512, scale=60.0, bias=-30.0)
    features["text"] = features["image"]
    wide = {n: x.detach().double().requires_grad_() if x.is_floating_point() else x for n, x in features.items()}
    exact = build("siglip", {})(**wide)
    assert exact < 1e-4
    torch.testing.assert_close(
        build("siglip", {})(**features).double(), exact, rtol=bounds.bound(terms=16, size=60 + 30), atol=0
    )


def test_equal_captions_are_left_out_and_weights_count_for_both_samples():
    features = batch(20, dtype=torch.float64)
    features["caption_id"] = torch.arange(20) // 4
    w = features["weights"] = torch.rand(20, dtype=torch.float64)
    logits = features["scale"] * features["image"] @ features["text"].T + features["bias"]
    other = features["caption_id"][:, None] != features["caption_id"]
    pair_weight = (w[:, None] + w) / 2
    dense = (F.softplus(logits) * other * pair_weight).sum() + (F.softplus(-logits.diagonal()) * w).sum()
    ours = build("siglip", {})(**features)
    torch.testing.assert_close(ours, dense / w.sum(), **bounds.near())
    for mine, theirs in zip(gradients(ours, features), gradients(dense / w.sum(), features)):
        torch.testing.assert_close(mine, theirs, **bounds.near())
