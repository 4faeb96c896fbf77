"""Diagnostics against a dense oracle, the temperature study's worked numbers, and over ranks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses import diagnostics
from mmclr.losses.diagnostics import diagnose, fixed_negatives_loss
from tests import bounds
from tests.losses.cards import F3
from tests.ranks import run


def batch(b=40, D=8):
    g = torch.Generator().manual_seed(4)
    image, noise = (F.normalize(torch.randn(b, D, generator=g, dtype=torch.float64), dim=1) for _ in "ab")
    return image, F.normalize(image + 0.8 * noise, dim=1), torch.tensor(12.0, dtype=torch.float64)


def test_equal_to_the_matrices_written_out():
    image, text, scale = batch()
    ids = torch.arange(40) // 2
    found = diagnose(image, text, scale, ids)
    u, v = image.numpy(), text.numpy()
    s, other = u @ v.T, ids[:, None].numpy() != ids.numpy()
    wrong = np.where(other, s, -np.inf)
    pair = s.diagonal()
    p = np.exp(12 * wrong - np.log(np.exp(12 * wrong).sum(1, keepdims=True)))
    entropy = -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum(1)
    off = ~np.eye(40, dtype=bool)
    uniformity = lambda x, y: math.log(np.exp(-2 * (2 - 2 * x @ y.T))[off].mean())  # noqa: E731
    variances = np.linalg.eigvalsh(np.cov(u.T))
    shares = variances / variances.sum()
    twins = [u[i] @ u[j] for i in range(40) for j in range(40) if i != j and ids[i] == ids[j]]
    expected = {
        "matched_mean": pair.mean(), "matched_50%": np.quantile(pair, 0.5), "matched_5%": np.quantile(pair, 0.05),
        "hardest_mean": wrong.max(1).mean(), "hardest_95%": np.quantile(wrong.max(1), 0.95),
        "matched_variance": pair.var(), "negative_mean": s[other].mean(), "negative_variance": s[other].var(),
        "margin": (pair - wrong.max(1)).mean(),
        "image_accuracy": (pair > wrong.max(1)).mean(), "text_accuracy": (pair > wrong.max(0)).mean(),
        "image_uniformity": uniformity(u, u), "text_uniformity": uniformity(v, v), "cross_uniformity": uniformity(u, v),
        "alignment": ((u - v) ** 2).sum(1).mean(),
        "centroid_distance": np.linalg.norm(u.mean(0) - v.mean(0)),
        "image_effective_rank": math.exp(-(shares * np.log(shares)).sum()),
        "effective_negatives_of_image": np.exp(entropy).mean(),
        "tolerance": np.mean(twins), "scale": 12.0,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


def test_worked_numbers_of_the_temperature_study():
    """exp of the entropies 1.925974, 1.881966, 1.857295; tolerance 0.8 over distinct pairs; uniformities."""
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    found = diagnose(image, text, torch.tensor(2.0, dtype=torch.float64))
    assert found["effective_negatives_of_image"] == pytest.approx(
        (1.925974 + 1.881966 + 1.857295) / 3, abs=bounds.printed(6)
    )
    assert found["image_uniformity"] == pytest.approx(-1.499775, abs=bounds.printed(6))
    assert found["text_uniformity"] == pytest.approx(-0.977359, abs=bounds.printed(6))
    assert diagnose(image, text, torch.tensor(2.0), torch.tensor([0, 1, 1]))["tolerance"] == pytest.approx(0.8)


def of_rank(image, text, scale, ids):
    return diagnose(*(parallel.own_rows(x) for x in (image, text)), scale, parallel.own_rows(ids))


@pytest.mark.dist
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_say_what_one_process_says(world):
    image, text, scale = batch()
    ids = torch.arange(40) // 3
    alone = diagnose(image, text, scale, ids)
    for found in run(world, of_rank, image, text, scale, ids):
        assert found == pytest.approx(alone, rel=1e-9)


def test_half_precision_and_a_single_pair_are_fine():
    image, text, scale = batch()
    found = diagnose(image.bfloat16(), text.bfloat16(), scale)
    assert all(math.isfinite(value) for value in found.values())
    one = diagnose(image[:1], text[:1], scale)
    assert one["image_accuracy"] == 1


def test_the_validation_loss_is_that_of_batches_of_its_size():
    image, text, scale = batch()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    by_hand = [
        F.cross_entropy(m, torch.arange(8))
        for g in order.view(5, 8)
        for s in [scale * image[g] @ text[g].T]
        for m in (s, s.T)
    ]
    assert fixed_negatives_loss(image, text, scale, negatives=7) == pytest.approx(torch.stack(by_hand).mean().item())


def test_the_validation_loss_hardly_depends_on_how_many_pairs_there_are():
    """Unlike a mean over whatever batches the data came in: each pair has as many negatives."""
    g = torch.Generator().manual_seed(0)
    image, noise = (F.normalize(torch.randn(4001, 16, generator=g), dim=1) for _ in "ab")
    text = F.normalize(image + noise, dim=1)
    few, many = (fixed_negatives_loss(image[:n], text[:n], torch.tensor(10.0), negatives=31) for n in (1003, 4001))
    assert few == pytest.approx(many, rel=0.05)
    whole = fixed_negatives_loss(image, text, torch.tensor(10.0), negatives=4000)
    assert whole > 2 * many


def test_every_number_is_explained():
    image, text, scale = batch()
    explained = diagnostics.diagnose.__doc__.replace("...", "").split()
    stems = [word.strip(",").strip("*").strip("_") for word in explained]
    for name in diagnose(image, text, scale, torch.arange(40)):
        assert any(stem and stem in name for stem in stems), name


UNUSUAL = {
    "one pair": lambda x, y, ids: (x[:1], y[:1], ids[:1]),
    "two pairs": lambda x, y, ids: (x[:2], y[:2], ids[:2]),
    "no pair": lambda x, y, ids: (x[:0], y[:0], ids[:0]),
    "one caption": lambda x, y, ids: (x, y, ids * 0),
    "no captions known": lambda x, y, ids: (x, y, ids * 0 - 1),
    "all equal": lambda x, y, ids: (x[:1].expand_as(x), x[:1].expand_as(x), ids),
    "zeros": lambda x, y, ids: (x * 0, y * 0, ids),
    "one feature": lambda x, y, ids: (x[:, :1].sign(), y[:, :1].sign(), ids),
}


@pytest.mark.parametrize("what", UNUSUAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_infinite(what, dtype):
    """A number is finite, or NaN where the batch has nothing that it could be about."""
    image, text, scale = batch()
    given = UNUSUAL[what](image.to(dtype), text.to(dtype), torch.arange(40))
    for ids in (given[2], None):
        found = diagnose(*given[:2], scale, ids)
        assert not any(math.isinf(value) for value in found.values()), found
    lacks = {name for name, value in diagnose(*given[:2], scale, given[2]).items() if math.isnan(value)}
    negatives = {
        "hardest_mean",
        "hardest_5%",
        "hardest_50%",
        "hardest_95%",
        "negative_mean",
        "negative_variance",
        "margin",
        "effective_negatives_of_image",
        "effective_negatives_of_text",
    }
    expected = {"one pair": negatives, "one caption": negatives}.get(what, set())
    assert lacks - {"tolerance"} == expected


def test_blank_rows_are_left_out():
    image, text, scale = batch()
    ids, real = torch.arange(40) // 2, torch.arange(40) % 3 > 0
    alone = diagnose(image[real], text[real], scale, ids[real])
    assert diagnose(image, text, scale, torch.where(real, ids, -1), real) == alone
    nothing = diagnose(image, text, scale, ids, torch.zeros(40, dtype=torch.bool))
    assert nothing == {"scale": 12}


def blank_rank(image, text, scale, ids, real):
    return diagnose(
        *(parallel.own_rows(x) for x in (image, text)), scale, parallel.own_rows(ids), parallel.own_rows(real)
    )


@pytest.mark.dist
@pytest.mark.parametrize("kept", [17, 1, 0])
def test_blank_rows_are_left_out_on_ranks(kept):
    image, text, scale = batch()
    ids, real = torch.arange(40) // 2, torch.arange(40) < kept
    alone = diagnose(image[real], text[real], scale, ids[real])
    for found in run(2, blank_rank, image, text, scale, ids, real):
        assert found == pytest.approx(alone, rel=1e-9, nan_ok=True)
