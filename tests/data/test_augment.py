"""Crops and colours: what the draws are, and what is done with them."""

import math

import numpy as np
import pytest
from PIL import Image

from mmclr.config import load
from mmclr.data.pixels.augment import Augment, Canvas, Recipe, canvas, cut, draw
from mmclr.data.random import key

RED = (200, 30, 30)


def keys(n, seed=0):
    return key(np.full(n, seed), np.arange(n))


def boxes(n=4000, size=(160, 120), **settings):
    sizes = np.tile(size, (n, 1))
    return np.array([recipe.box for recipe in draw(load(Augment, settings), sizes, keys(n), 64)])


def stripes(size=(40, 30)):
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x * 5, y * 7, (x + y) * 2], -1).astype(np.uint8))


def view(image, recipe, size=24, factor=1, augment=None, background=RED):
    data = cut(canvas(image, factor, [augment or Augment()], background), recipe, size, "bicubic")
    return np.frombuffer(data, np.uint8).reshape(size, size, 3)


def test_crops_have_the_asked_areas_and_ratios():
    box = boxes(crop_scale=[0.2, 0.5], crop_ratio=[0.5, 1.5])
    w, h = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    area, ratio = w * h / (160 * 120), np.log(w / h)
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2] <= 160).all()
    assert (box[:, 3] <= 120).all()
    assert 0.2 <= area.min() < 0.21
    assert 0.49 < area.max() <= 0.5
    assert math.log(0.5) <= ratio.min()
    assert ratio.max() <= math.log(1.5)
    assert abs(area.mean() - 0.35) < 0.01
    assert abs((box[:, 0] / (160 - w)).mean() - 0.5) < 0.03


def test_crop_that_cannot_fit_is_the_largest_in_the_middle():
    box = boxes(3, size=(400, 20), crop_scale=[1.0, 1.0])
    want = 20 * 4 / 3
    np.testing.assert_allclose(box, [[200 - want / 2, 0, 200 + want / 2, 20]] * 3)


def test_shift_and_zoom():
    box = boxes(crop_scale=[1, 1], crop_ratio=[1, 1], size=(100, 100), shift=0.1, zoom=[0.5, 2.0])
    middle, side = (box[:, :2] + box[:, 2:]) / 2, box[:, 2] - box[:, 0]
    assert 39.9 <= middle.min() < 41
    assert 59 < middle.max() <= 60.1
    assert 50 <= side.min() < 51
    assert 190 < side.max() <= 200.001


def test_draws_belong_to_the_sample():
    how = Augment(crop_scale=(0.2, 1.0), flip=0.5, brightness=0.5, blur=0.5, shift=0.1)
    sizes = np.tile((60, 50), (10, 1))
    together = draw(how, sizes, keys(10), 64)
    assert [draw(how, sizes[:1], keys(10)[i : i + 1], 64)[0] for i in range(10)] == together
    assert len({tuple(recipe.box) for recipe in together}) == 10
    without_colour = draw(Augment(crop_scale=(0.2, 1.0), shift=0.1), sizes, keys(10), 64)
    assert [r.box for r in without_colour] == [r.box for r in together]  # one stage does not move another


def test_plain_view_is_pillows_resize():
    image, box = stripes(), (3.0, 2.0, 33.0, 28.0)
    expected = image.resize((24, 24), Image.Resampling.BICUBIC, box)
    assert (view(image, Recipe(box, False, None, 0.0)) == np.asarray(expected)).all()
    assert (view(image, Recipe(box, True, None, 0.0)) == np.asarray(expected)[:, ::-1]).all()


def test_beyond_the_border_is_background():
    how = Augment(shift=0.5)
    got = view(stripes((24, 24)), Recipe((-12.0, 0.0, 12.0, 24.0), False, None, 0.0), augment=how)
    assert (got[:, :12] == RED).all()
    assert (got[:, 12:] == np.asarray(stripes((24, 24)))[:, :12]).all()


def test_every_box_lies_on_the_canvas():
    how = Augment(shift=0.3, zoom=(0.4, 3.0), crop_scale=(0.1, 1.0))
    sizes = np.tile((37, 23), (500, 1))
    on = canvas(Image.new("RGB", (37, 23)), 1, [how], RED)
    for recipe in draw(how, sizes, keys(500), 16):
        cut(on, recipe, 16, "bilinear")  # Pillow refuses a box beyond the image


def test_reduced_picture_gives_the_same_part():
    image = stripes((48, 36)).resize((480, 360), Image.Resampling.BICUBIC)
    recipe = Recipe((80.0, 40.0, 400.0, 340.0), False, None, 0.0)
    half = Canvas(image.reduce(2), 2, (0, 0))
    a = np.frombuffer(cut(half, recipe, 24, "bicubic"), np.uint8).astype(int)
    b = np.frombuffer(cut(Canvas(image, 1, (0, 0)), recipe, 24, "bicubic"), np.uint8).astype(int)
    assert np.abs(a - b).mean() < 1


def recoloured(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    """A view of muted stripes with other colours, and the same without, as floats."""
    image = Image.fromarray((np.asarray(stripes((24, 24))) // 3 + 80).astype(np.uint8))
    whole = (0.0, 0.0, 24.0, 24.0)
    changed = view(image, Recipe(whole, False, (brightness, contrast, saturation, hue), 0.0)).astype(float)
    return changed, np.asarray(image).astype(float)


LUMA = [0.299, 0.587, 0.114]


def test_colours_follow_their_formulas():
    got, image = recoloured(brightness=1.3)
    np.testing.assert_allclose(got, image * 1.3, atol=0.6)
    got, image = recoloured(contrast=0.5)
    np.testing.assert_allclose(got, 0.5 * image + 0.5 * (image @ LUMA).mean(), atol=1)
    got, image = recoloured(saturation=0.0)
    np.testing.assert_allclose(got, (image @ LUMA)[..., None].repeat(3, -1), atol=0.6)
    got, image = recoloured(hue=1 / 3)  # a third of the circle: red to green to blue
    np.testing.assert_allclose(got, image[..., [2, 0, 1]], atol=0.6)
    got, image = recoloured()
    np.testing.assert_allclose(got, image, atol=0.6)


def test_probabilities():
    how = Augment(flip=0.3, brightness=0.4, hue=0.1, colour=0.6, grey=0.25, blur=0.5, blur_sigma=(0.5, 1.0))
    recipes = draw(how, np.tile((50, 50), (4000, 1)), keys(4000), 112)
    colour = np.array([r.colour for r in recipes])
    grey = colour[:, 2] == 0
    sigma = np.array([r.sigma for r in recipes])
    for share, wanted in (
        (np.mean([r.flip for r in recipes]), 0.3),
        (grey.mean(), 0.25),
        ((colour[:, 0] != 1).mean(), 0.6),
        ((sigma > 0).mean(), 0.5),
    ):
        assert abs(share - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / 4000)
    assert (colour[grey, 3] == 0).all()
    assert colour[:, 0].min() >= 0.6
    assert colour[:, 0].max() <= 1.4
    assert sigma[sigma > 0].min() >= 0.25  # half of what 224 px would have
    assert sigma.max() <= 0.5


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "hamming", "box", "lanczos"])
def test_resampling_names(resample):
    data = cut(Canvas(stripes(), 1, (0, 0)), Recipe((0.0, 0.0, 30.0, 30.0), False, None, 0.0), 12, resample)
    expected = stripes().resize((12, 12), Image.Resampling[resample.upper()], (0, 0, 30, 30))
    assert data == expected.tobytes()
