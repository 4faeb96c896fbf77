"""supremix: the card's mixtures and numbers, a loop in numpy with the same draws, and what mixtures may not do."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmclr import sample_random
from mmclr.config import ConfigError
from mmclr.losses import build
from mmclr.losses.algebra import merge
from mmclr.losses.soft.supremix import magnified, mixed_negatives, ordinal, surrounding
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

CARD = ([(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.6, 0.8)])
Y = [1.0, 3.0, 4.0]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def call(fields, pairs, target, **more):
    torch.manual_seed(0)
    features = batch(pairs, target=torch.as_tensor(target), **more)
    features.setdefault("index", torch.arange(len(features["image"])))
    objective = build("supremix", fields)
    return objective(**{name: features[name] for name in objective.needs}), features


def card(fields, mixed=True):
    """L_i of the card's rows, with .2 in place of the negatives' draws."""
    how = build("supremix", {"tau": 0.5, "window": 4.0, **fields})
    image, text = (double(side) for side in CARD)
    y, index = double(Y), torch.arange(3)
    rest = how._real(image, text, y).row
    around = surrounding(y, index, y, index, torch.tensor(0), how)
    if mixed:
        share = lambda r, c: torch.full((r.stop - r.start, c.stop - c.start), 0.2)  # noqa: E731
        negative = mixed_negatives(image, text, y, y, share, 0.5, how.magnify, 0.0, how.unit)
        rest = merge(rest, negative)
    return ordinal(image, text, rest, around, 0.5, how.unit), around


def test_the_mixture_of_the_card():
    _, around = card({})
    assert around.real.sum().item() == 1  # the lowest and the highest have none
    assert (around.below[1, 0], around.above[1, 0]) == (0, 2)
    assert around.share[1, 0].item() == pytest.approx(1 / 3)
    text = double(CARD[1])
    mixed = around.share[1, 0] * text[0] + (1 - around.share[1, 0]) * text[2]
    assert mixed.tolist() == pytest.approx([-0.133333, 0.733333], abs=bounds.printed(6))


@pytest.mark.parametrize(
    ("unit", "rows"),
    [(False, [1.076294, 2.648164, 2.452096]), (True, [1.066195, 2.541416, 2.529757])],
)
def test_the_rows_of_the_card(unit, rows):
    found, _ = card({"unit": unit})
    assert found.tolist() == pytest.approx(rows, abs=bounds.printed(6))


@pytest.mark.parametrize(("magnify", "mean"), [("l1", 1.425302), ("none", 0.796341)])
def test_the_card_without_mixtures(magnify, mean):
    found, _ = card({"magnify": magnify, "max_pos": 0}, mixed=False)
    assert found.mean().item() == pytest.approx(mean, abs=bounds.printed(6))


def loop(image, text, y, index, weights, seed, how):
    """Both directions with every mixture made as a vector; torch, so that gradients come with it."""
    total = 0
    n = len(y)
    for side, (x, other) in enumerate(((image, text), (text, image))):
        share = sample_random.to_beta(sample_random.pair(index, index, seed + 2 * side), *how.beta)
        rows = []
        for i in range(n):
            near = lambda a: float(magnified(double(a).abs(), how.magnify))  # noqa: E731
            known = np.isfinite(y[i])
            logits, positives = [], [x[i] @ other[i] / how.tau]
            for k in range(n):
                if k != i:
                    apart = y[i] - y[k] if known and np.isfinite(y[k]) else 0.0
                    logits.append(x[i] @ other[k] / how.tau + near(apart))
                if known and np.isfinite(y[k]) and abs(y[i] - y[k]) > how.tolerance:
                    c = share[i, k].item()
                    mix = (c * other[i] + (1 - c) * other[k]).detach()
                    mix = F.normalize(mix, dim=0) if how.unit else mix
                    logits.append(x[i] @ mix / how.tau + near((1 - c) * (y[i] - y[k])))
            window, t = how.window or np.inf, how.tolerance
            for j in range(n if known else 0):
                for k in range(n):
                    if y[i] - window < y[j] < y[i] - t and y[i] + t < y[k] < y[i] + window:
                        c = (y[k] - y[i]) / (y[k] - y[j])
                        mix = (c * other[j] + (1 - c) * other[k]).detach()
                        mix = F.normalize(mix, dim=0) if how.unit else mix
                        positives.append(x[i] @ mix / how.tau)
            p = torch.stack(positives)
            rows.append(torch.stack([*logits, *p]).logsumexp(0) - p.mean())
        total = total + (torch.stack(rows) * weights).sum() / weights.sum() / 2
    return total


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"magnify": "l2", "unit": True, "window": 1.5},
        {"magnify": "none", "tolerance": 0.4, "beta": (5.0, 5.0)},
    ],
)
def test_equals_the_loop_with_gradients(fields):
    """Some targets are missing, some equal; sample numbers are those of a data set."""
    g = torch.Generator().manual_seed(1)
    target = torch.randn(11, generator=g, dtype=torch.float64)
    target[[2, 7]] = torch.nan
    target[5] = target[4]
    index, weights = torch.randperm(900, generator=g)[:11], torch.rand(11, generator=g, dtype=torch.float64)
    given = {"index": index, "weights": weights}
    value, features = call({"tau": 0.3, "max_pos": 64, **fields}, random_pairs(11), target, **given)
    torch.manual_seed(0)
    seed = sample_random.seed(index)
    image, text = features["image"], features["text"]
    how = build("supremix", {"tau": 0.3, "max_pos": 64, **fields})
    expected = loop(image, text, target.tolist(), index, weights, seed, how)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    for mine, other in zip(*(torch.autograd.grad(v, (image, text)) for v in (value, expected))):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_drawn_positives_stand_for_all():
    """Means over many draws come near the sums over all triples."""
    n = 40
    y = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    index = torch.arange(n)
    image, text = (double(side) for side in random_pairs(n))
    rest = torch.full((n,), -torch.inf, dtype=torch.float64)
    found = {}
    for most in (16, 400):
        how = build("supremix", {"max_pos": most})
        seeds = range(200) if most == 16 else (0,)
        around = [surrounding(y, index, y, index, torch.tensor(seed), how) for seed in seeds]
        assert (around[0].times * around[0].real.sum(1)).max() == 380  # of 19 below and 20 above
        found[most] = torch.stack([ordinal(image, text, rest, one, 0.5, False) for one in around])
        assert all((one.below[one.real] != one.above[one.real]).all() for one in around[:3])
        for one in around[:3]:
            mixed = one.share * y[one.below] + (1 - one.share) * y[one.above]
            assert torch.allclose(mixed[one.real], y[:, None].expand_as(mixed)[one.real])
    off = found[16].mean(0) - found[400][0]
    spread = found[16].std(0) / 200**0.5
    assert (off.abs() <= 5 * spread + 0.02).all()  # the logarithm of a mean is a little below the mean's


def test_draws_belong_to_samples():
    """Another order of the batch draws the same pairs for each sample."""
    y, index = torch.randn(60, generator=torch.Generator().manual_seed(0)).round(decimals=1), torch.arange(60) * 7
    how, places = build("supremix", {"max_pos": 8}), torch.randperm(60)
    plain = surrounding(y, index, y, index, torch.tensor(5), how)
    turned = surrounding(y[places], index[places], y[places], index[places], torch.tensor(5), how)
    assert torch.equal(places[turned.below][turned.real], plain.below[places][turned.real])
    assert torch.equal(turned.share, plain.share[places])


def test_without_targets_it_is_clip():
    value, _ = call({"tau": 0.2}, random_pairs(12), torch.full((12,), torch.nan))
    assert value.item() == pytest.approx(evaluate("clip", random_pairs(12), 0.2).item(), rel=1e-9)


def test_a_batch_without_targets_is_told():
    with pytest.warns(UserWarning, match="supremix: no sample of the batch has a target.* set data.fields.target"):
        call({}, random_pairs(32), torch.full((32,), torch.nan))


def test_a_larger_gap_of_a_negative_is_a_larger_loss():
    near, far = (call({"tau": 0.5}, CARD, [1.0, 3.0, last])[0] for last in (4.0, 9.0))
    assert far > near


def test_an_anchors_own_caption_as_a_negative_costs_at_least_log_2():
    image, text = (double(side) for side in CARD)
    y = double(Y)
    ones = lambda r, c: torch.ones(r.stop - r.start, c.stop - c.start)  # noqa: E731
    negative = mixed_negatives(image, text, y, y, ones, 0.5, "none", 0.0, False)
    assert negative.tolist() == pytest.approx((2 * (image * text).sum(1) + np.log(2)).tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"beta": (0, 8)}, "beta and tau are above 0"), ({"tolerance": -1}, "window, max_pos and tolerance are at least")],
)
def test_settings_that_mean_nothing_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        build("supremix", fields)
