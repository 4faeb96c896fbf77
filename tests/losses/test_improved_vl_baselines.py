"""cl2l, swalip, barlip, siamlip, byolip: the card's worked numbers, and each against its formula in numpy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmclr.heads.mlp import BatchNorm
from mmclr.losses import Facts, build
from mmclr.losses.sinkhorn import sinkhorn
from mmclr.losses.views.improved_vl_baselines import _both_scales
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

U = [(1, 0), (0, 1), (0.6, 0.8)]
V = [(0.8, 0.6), (-0.6, 0.8), (1, 0)]
U2 = [(0.8, 0.6), (0, 1), (0, 1)]
V2 = [(1, 0), (0.6, 0.8), (0.8, 0.6)]
PLAIN = {"hidden": 0, "duplicates": "negative"}


def tensor(*views):
    return torch.tensor(views, dtype=torch.float64).transpose(0, 1).clone()  # [b, views, D]


def ready(key, D, **fields):
    torch.manual_seed(0)
    objective = build(key, fields)
    objective.setup(Facts(width=D, batch=8))
    objective.double()
    if "view_scale" in fields:  # to the last bit
        objective.log_scale.data.fill_(math.log(fields["view_scale"]))
    return objective


def call(objective, features):
    return objective(**{name: features[name] for name in objective.needs})


def random_batch(b=9, D=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    unit = lambda *shape: F.normalize(torch.randn(*shape, D, generator=g, dtype=torch.float64), dim=-1)  # noqa: E731
    views = {"views": unit(b, 2), "text_views": unit(b, 2)}
    teacher = {"ema_image": unit(b), "ema_text": unit(b), "ema_views": unit(b, 2), "ema_text_views": unit(b, 2)}
    return batch((unit(b).tolist(), unit(b).tolist()), 0.1) | views | teacher


# Global and local contrast


def test_cl2l_worked_number():
    features = batch((U, V), 0.5, views=tensor(U, U2), text_views=tensor(V, V2))
    value = call(ready("cl2l", 2, view_scale=2.0, **PLAIN), features)
    assert value.item() == pytest.approx(0.972808, abs=bounds.printed(6))
    assert 2 * value.item() == pytest.approx(1.945616, abs=2 * bounds.printed(6))  # the paper's sum: a weight of 2
    assert evaluate("clip", (U, V), 0.5, {"image_weight": 1.0}).item() == pytest.approx(0.946698, abs=bounds.printed(6))
    assert evaluate("clip", (U, V), 0.5, {"image_weight": 0.0}).item() == pytest.approx(0.907096, abs=bounds.printed(6))


def test_cl2l_of_views_that_equal_the_pair_is_clip():
    pairs = random_pairs(7)
    views = {name: tensor(side, side) for name, side in zip(("views", "text_views"), pairs)}
    value = call(ready("cl2l", 8, label_smoothing=0.0, view_scale=10.0, **PLAIN), batch(pairs, 0.1, **views))
    assert value.item() == pytest.approx(evaluate("clip", pairs, 0.1).item(), rel=1e-12)


def test_cl2l_without_views_is_clip():
    features = batch(random_pairs(7), 0.1)
    none = torch.zeros(7, 0, 8, dtype=torch.float64)
    value = call(ready("cl2l", 8, **PLAIN), features | {"views": none, "text_views": none})
    assert value.item() == pytest.approx(evaluate("clip", random_pairs(7), 0.1).item(), rel=1e-12)


def test_cl2l_heads_stand_between_views_and_contrast_only():
    features = random_batch()
    objective = ready("cl2l", 6, hidden=2)
    call(objective, features).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
    before = call(objective, features).item()
    with torch.no_grad():
        for p in objective.parameters():
            p.mul_(0)  # heads that give zeros, a scale of 1: every logit is 0
    local = np.log(9)
    of_pair = evaluate("clip", (features["image"].tolist(), features["text"].tolist()), 0.1).item()
    assert call(objective, features).item() == pytest.approx((of_pair + 2 * local) / 3, rel=1e-12)
    assert before != pytest.approx((of_pair + 2 * local) / 3)


# Balanced assignments


def test_sinkhorn_worked_number():
    scores = torch.tensor(U, dtype=torch.float64) @ torch.tensor(V, dtype=torch.float64).T
    expected = [[0.327141, 0.043314, 0.629545], [0.215672, 0.700533, 0.083794], [0.457307, 0.255555, 0.287138]]
    found = sinkhorn(scores, 0.5, 3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=bounds.printed(6))
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(scores, 1e9, 3), torch.full((3, 3), 1 / 3, dtype=torch.float64))
    many = sinkhorn(scores, 0.5, 300)
    torch.testing.assert_close(many.sum(0), torch.ones(3, dtype=torch.float64))  # both marginals, after many rounds


def test_sinkhorn_leaves_out_samples_without_weight():
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(6, 4, generator=g, dtype=torch.float64)
    weights = torch.tensor([1.0, 1, 1, 1, 0, 0])
    torch.testing.assert_close(sinkhorn(scores, 0.1, 3, weights)[:4], sinkhorn(scores[:4], 0.1, 3))


def plain_sinkhorn(m, eps, rounds):
    """The published loop, on the whole matrix."""
    q = np.exp(m / eps).T
    k, b = q.shape
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(1, keepdims=True) * k
        q /= q.sum(0, keepdims=True) * b
    return (q * b).T


def test_swalip_is_its_formula():
    features = random_batch()
    value = call(ready("swalip", 6, hidden=0, view_scale=5.0), features)
    images, texts = (features[name].numpy() for name in ("views", "text_views"))
    total = 0.0
    for x, y in ((images, texts), (texts, images)):
        for a in range(2):
            for b in range(2):
                logits = 5.0 * x[:, a] @ y[:, b].T
                logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
                q = plain_sinkhorn(x[:, 1 - a] @ y[:, 1 - b].T, 0.05, 3)
                total += -(q * logs).sum(1).mean() / 2 / 4
    assert value.item() == pytest.approx(total, rel=1e-12)


def test_swalip_wants_two_views():
    features = random_batch()
    with pytest.raises(Exception, match="data.views: 2"):
        call(ready("swalip", 6), features | {"views": features["views"][:, :1]})


# Heads that agree


def test_barlip_worked_number():
    objective = ready("barlip", 2)
    root = 1.5**0.5
    y_image = root * torch.tensor([(1, -1), (-1, 1), (0, 0)], dtype=torch.float64)
    y_text = root * torch.tensor([(1, 0), (-1, 1), (0, -1)], dtype=torch.float64)
    weights = torch.ones(3, dtype=torch.float64)
    assert objective._decorrelate(y_image, y_text, weights).item() == pytest.approx(0.00640625, abs=1e-12)


def test_barlip_is_the_mean_over_pairs_of_views():
    features, objective = random_batch(), ready("barlip", 6, hidden=2, out=3)
    images = objective.image_head(torch.cat([features["image"][:, None], features["views"]], 1)).detach().numpy()
    texts = objective.text_head(torch.cat([features["text"][:, None], features["text_views"]], 1)).detach().numpy()
    assert np.abs(images.mean(0)).max() < bounds.bound(torch.float64, terms=512)  # each view is normalised by itself
    terms = []
    for a, b in ((0, 0), (1, 1), (1, 2), (2, 1), (2, 2)):
        c = images[:, a].T @ texts[:, b] / 9
        eye = np.eye(18)
        terms.append(0.025 * (((c - 1) ** 2 * eye).sum() + 0.005 * (c**2 * (1 - eye)).sum()))
    assert call(objective, features).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_agreement_worked_number():
    p, y = torch.tensor([(1.0, 0), (3, 4)]), torch.tensor([(1.0, 1), (4, 3)])
    cosines = _both_scales(p[:, None].double(), y[:, None].double())
    assert (2 - 2 * cosines.mean()).item() == pytest.approx(0.332893, abs=bounds.printed(6))


@pytest.mark.parametrize("key", ["siamlip", "byolip"])
def test_predictions_are_their_formula(key):
    features, objective = random_batch(), ready(key, 6, hidden=2, out=5)
    w = features["weights"]
    image, text = (
        torch.cat([features[a][:, None], features[b]], 1) for a, b in (("image", "views"), ("text", "text_views"))
    )
    p = {
        "image": objective.image_predictor(objective.image_head(image, w), w),
        "text": objective.text_predictor(objective.text_head(text, w), w),
    }
    if key == "byolip":
        image, text = (
            torch.cat([features[f"ema_{a}"][:, None], features[f"ema_{b}"]], 1)
            for a, b in (("image", "views"), ("text", "text_views"))
        )
    y = {"image": objective.image_head(image, w), "text": objective.text_head(text, w)}  # followers still equal them
    distance = lambda a, b: 2 - 2 * F.cosine_similarity(a, b, dim=-1).mean()  # noqa: E731
    pairs = [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    total = sum(
        distance(p["image"][:, a], y["text"][:, b]) + distance(p["text"][:, b], y["image"][:, a]) for a, b in pairs
    )
    value = call(objective, features)
    assert value.item() == pytest.approx(total.item() / 10, rel=1e-9)
    assert 0 <= value.item() <= 4


def test_a_teacher_that_is_the_model_makes_byolip_siamlip():
    features = random_batch()
    features |= {f"ema_{name}": features[name].detach() for name in ("image", "text", "views", "text_views")}
    values = [call(ready(key, 6, hidden=2), features).item() for key in ("siamlip", "byolip")]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_what_is_predicted_gets_no_gradient():
    """Of a caption's head only the predictor's side moves: with a fixed predictor of images, no caption feels it."""
    features, objective = random_batch(), ready("siamlip", 6, hidden=2)
    image = torch.cat([features["image"][:, None], features["views"]], 1)
    text = torch.cat([features["text"][:, None], features["text_views"]], 1).requires_grad_()
    goals = objective.text_head(text).detach()
    cosines = _both_scales(objective.image_predictor(objective.image_head(image)), goals)
    assert torch.autograd.grad(cosines.sum(), text, allow_unused=True) == (None,)
    byol = ready("byolip", 6, hidden=2)
    inputs = {name: features[name].detach().requires_grad_() for name in byol.needs}
    call(byol, inputs).backward()
    assert all((x.grad is None) == name.startswith("ema_") for name, x in inputs.items() if name != "weights")
    assert all(p.grad is None for name, p in byol.named_parameters() if "teacher" in name)


def test_batch_norm_is_torchs_over_each_view():
    x = random_batch()["views"]
    mine = BatchNorm(6).double()(x)
    for view in range(2):
        torch.testing.assert_close(mine[:, view], F.batch_norm(x[:, view], None, None, training=True))
    weights = torch.tensor([1.0] * 5 + [0.0] * 4, dtype=torch.float64)
    torch.testing.assert_close(BatchNorm(6).double()(x, weights)[:5], BatchNorm(6).double()(x[:5]))


def test_what_agrees_costs_nothing():
    y = torch.randn(6, 3, 4, dtype=torch.float64)
    nearest, farthest = (2 - 2 * (_both_scales(p, y) / 5).mean().item() for p in (y, -y))
    assert -1e-12 < nearest < farthest < 4 + 1e-12
    alike = y[:, :1].expand(6, 3, 4)
    assert (2 - 2 * _both_scales(2 * alike, alike) / 5).abs().max() < bounds.bound(torch.float64, terms=512)
    objective, ones = ready("barlip", 2), torch.ones(4, dtype=torch.float64)
    apart = torch.tensor([(1.0, 1), (1, -1), (-1, 1), (-1, -1)], dtype=torch.float64)  # C is the identity
    assert objective._decorrelate(apart, apart, ones).item() == pytest.approx(
        0, abs=bounds.bound(torch.float64, terms=512)
    )
