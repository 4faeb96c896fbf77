"""How training arrays are changed: what the draws are, and that each belongs to its sample."""

import math

import numpy as np
import pytest

from mmclr.config import ConfigError, check, load
from mmclr.data.pixels.array import Array
from mmclr.data.pixels.array_augment import ArrayAugment, draw
from mmclr.data.random import key
from tests.data.arrays import ROWS, SIGNALS, medium, series


def keys(n, seed=0):
    return key(np.full(n, seed), np.arange(n))


def drawn(n=2000, size=(100, 2), length=64, seed=0, **settings):
    sizes = np.tile(size, (n, 1))
    return draw(load(ArrayAugment, settings), sizes, keys(n, seed), length)


def test_by_default_a_window_of_the_models_length_lies_anywhere():
    windows = drawn()
    assert {w.steps for w in windows} == {64}
    assert {w.start for w in windows} == set(range(37))
    assert all(w.scale is None and w.masked is None and not w.jitter for w in windows)
    assert {(w.start, w.steps) for w in drawn(size=(20, 2))} == {(0, 20)}


def test_crops_have_the_asked_shares():
    counts = np.array([w.steps for w in drawn(size=(60, 2), crop=[0.5, 0.75])])
    assert (counts.min(), counts.max()) == (30, 45)
    assert abs(counts.mean() - 37.5) < 0.5
    ends = np.array([(w.start, w.start + w.steps) for w in drawn(size=(60, 2), crop=[0.5, 0.75])])
    assert (ends[:, 0].min(), ends[:, 1].max()) == (0, 60)


def test_places_are_shares_of_the_whole():
    window = drawn(n=1, size=(60, 2), crop=[0.5, 0.5])[0]
    assert window.place((60, 2)) == (window.start / 60, 0.0, window.start / 60 + 0.5, 1.0)


def test_factors_keep_the_mean_of_a_channel():
    made = Array(SIGNALS, [1, -2], [3, 5], augments=[ArrayAugment(scale=0.4)])
    windows = made.draw(made.augments[0], np.tile((8, 2), (500, 1)), keys(500))
    factors = np.stack([w.scale for w in windows])
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.1
    x = series(8)
    expected = np.array([1, -2]) + factors[7] * (x - np.array([1, -2]))
    np.testing.assert_allclose(made.cut(x, windows[7]), expected, atol=1e-6)


def test_noise_is_normal_and_as_large_as_it_says():
    made = Array(SIGNALS, [0, 0], [3, 5], augments=[ArrayAugment(jitter=0.1)])
    windows = made.draw(made.augments[0], np.tile((8, 2), (4000, 1)), keys(4000))
    x = series(8)
    noise = np.stack([made.cut(x, w) - x for w in windows]) / (0.1 * np.array([3, 5]))
    flat = np.sort(noise.reshape(-1))
    n = len(flat)
    normal = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in flat])
    distance = np.abs(normal - (np.arange(n) + 0.5) / n).max()  # Kolmogorov's, whose 99.9 % point is 1.95 / sqrt(n)
    assert distance < 1.95 / math.sqrt(n)
    assert np.abs(np.corrcoef(noise.reshape(4000, -1).T) - np.eye(16)).max() < 0.08


def test_a_mask_is_a_stretch_of_up_to_its_share():
    made = Array(SIGNALS, [7, 9], [3, 5], augments=[ArrayAugment(mask=0.5)])
    windows = made.draw(made.augments[0], np.tile((8, 2), (2000, 1)), keys(2000))
    masks = np.stack([w.masked[:, 0] for w in windows])
    assert set(masks.sum(1).tolist()) == {0, 1, 2, 3, 4}
    assert (np.abs(np.diff(np.pad(masks, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2).all()
    assert masks.any(0).all()
    x = series(8)
    at = int(masks.sum(1).argmax())
    np.testing.assert_array_equal(made.cut(x, windows[at]), np.where(masks[at][:, None], [7, 9], x).astype(np.float32))


def test_values_of_a_row_are_masked_one_by_one():
    made = Array(ROWS, [7] * 5, [1] * 5, augments=[ArrayAugment(mask=0.3)])
    windows = made.draw(made.augments[0], np.tile((1, 5), (4000, 1)), keys(4000))
    masks = np.stack([w.masked[0] for w in windows])
    assert np.abs(masks.mean(0) - 0.3).max() < 0.03
    assert np.abs(np.corrcoef(masks.T) - np.eye(5)).max() < 0.06
    row = np.arange(5, dtype=np.float32)[None]
    np.testing.assert_array_equal(made.cut(row, windows[0]), np.where(masks[0], 7, row))


def test_a_draw_belongs_to_its_sample_and_to_nothing_else():
    how = {"crop": [0.3, 1.0], "jitter": 0.2, "scale": 0.3, "mask": 0.4}
    made, x = medium(), series(30)
    all_of_them = draw(load(ArrayAugment, how), np.tile((30, 2), (9, 1)), keys(9), 8)
    alone = draw(load(ArrayAugment, how), np.tile((30, 2), (1, 1)), keys(9)[4:5], 8)
    np.testing.assert_array_equal(made.cut(x, all_of_them[4]), made.cut(x, alone[0]))
    assert not np.array_equal(made.cut(x, all_of_them[3]), made.cut(x, all_of_them[4]))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"crop": [0.0, 1.0]}, "crop is a range"),
        ({"crop": [0.5, 1.5]}, "crop is a range"),
        ({"crop": [0.9, 0.5]}, "crop is a range"),
        ({"jitter": -0.1}, "jitter must be at least 0"),
        ({"mask": 1.5}, "mask is a share"),
    ],
)
def test_augmentations_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        check(ArrayAugment, settings)
