"""Deep images: nothing of their depth is lost, the same numbers are the same pixels, and bad ones are one sentence."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from mmclr.config import ConfigError, check, load
from mmclr.data.pixels.augment import Augment
from mmclr.data.pixels.bands import Bands
from mmclr.data.pixels.choose import Square, choose
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.pixels.photo import Photo
from mmclr.data.random import key
from mmclr.data.samples.reader import normalise
from mmclr.data.samples.skipped import Fault
from mmclr.data.settings import DataConfig
from tests.data.deep import bands_tiff, npy, png16, values

WINDOW = Intensity(low=0, high=4095)
FULL = Augment(
    crop_scale=(0.3, 1.0), shift=0.1, zoom=(0.8, 1.2), flip=0.5, brightness=0.4, contrast=0.4, colour=0.8, blur=0.5
)


def opened(medium, data, **beside):
    return medium.open(data, beside)


def views(medium, data, augment=FULL, count=8):
    """What training cuts out of an image with `count` draws."""
    image = opened(medium, data)
    whole = medium.decode(image)
    drawn = medium.draw(augment, np.array([image.size] * count), key(np.arange(count)))
    return np.stack([medium.cut(whole, one) for one in drawn])


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_same_numbers_are_the_same_pixels_whatever_the_file(bands):
    medium = Bands(24, bands, WINDOW, augments=[FULL])
    x = values(bands)
    first, *others = [
        npy(x),
        png16(x),
        bands_tiff(x, compression="lzw"),
        npy(x.astype(np.float64)),
        npy(x.astype(np.int32)),
    ]
    for data in others:
        assert (medium.plain(opened(medium, data)) == medium.plain(opened(medium, first))).all()
        assert (views(medium, data) == views(medium, first)).all()


@pytest.mark.parametrize("kind", [npy, png16, bands_tiff])
def test_one_of_4096_is_seen_at_every_step(kind):
    """The darkest step of a 12-bit image, in one pixel alone, and in all of them."""
    dark, one, all_ = values(1), values(1), values(1)
    dark[:], all_[:], one[:] = 100, 101, 100
    one[0, 14, 18] = 101
    steps = []
    for x in (dark, one, all_):
        medium = Bands(24, 1, WINDOW)
        image = opened(medium, kind(x))
        seen, still = np.asarray(medium.decode(image).bands[0]), dataclasses.replace(FULL, shift=0, zoom=(1.0, 1.0))
        normal = normalise(medium.batched(medium.plain(image)), [0.3], [0.2]).numpy()
        steps.append([image.numbers.array(), seen, views(medium, kind(x), still), medium.plain(image), normal])
    for a, b, c in zip(*steps):
        assert (a != c).all()
        assert (a != b).any()


def test_window_and_normalisation_are_the_formula():
    """(clip((x - low) / (high - low)) - mean) / std in float64, of an image that is not resized."""
    x = values(2, size=(24, 24), top=65536)
    low, high, mean, std = np.array([1000.0, 3.0]), np.array([5095.0, 60000.0]), [0.4, 0.5], [0.2, 0.3]
    wanted = np.clip((x - low[:, None, None]) / (high - low)[:, None, None], 0, 1)
    for intensity in (
        Intensity(low=low.tolist(), high=high.tolist()),
        Intensity(center=((low + high) / 2).tolist(), width=(high - low).tolist()),
    ):
        medium = Bands(24, 2, intensity)
        plain = medium.plain(opened(medium, npy(x)))
        assert plain.dtype == np.float32
        assert np.abs(np.moveaxis(plain, -1, 0) - wanted).max() < 1e-6
        normal = normalise(medium.batched(plain), mean, std).numpy()
        assert np.abs(normal - (wanted - np.reshape(mean, (2, 1, 1))) / np.reshape(std, (2, 1, 1))).max() < 1e-5


def test_large_images_of_16_bits_go_through_a_table_to_the_same_bits():
    x = values(1, size=(500, 400), top=65536)
    medium = Bands(64, 1, Intensity(low=7, high=60001))
    a, b = (medium.plain(opened(medium, npy(kind))) for kind in (x, x.astype(np.int64)))
    assert (a == b).all()


def test_percentiles_are_of_each_band():
    x = values(3).astype(np.float32)
    x[1] *= 100
    x[2] = 5
    medium = Bands(29, 3, Intensity(percentile=(2, 98)), resize="squash")
    plain = medium.plain(opened(medium, npy(x[:, :, :29])))
    for band in range(2):
        low, high = np.percentile(x[band, :, :29], [2, 98])
        assert np.allclose(plain[..., band], np.clip((x[band, :, :29] - low) / (high - low), 0, 1), atol=1e-6)
    assert (plain[..., 2] == 0).all()  # a band of one value


@pytest.mark.parametrize(("low", "high"), [("json:window_low", "json:window_high"), ("json:w.low", "json:w.high")])
def test_each_sample_may_say_its_window(low, high):
    medium = Bands(24, 1, Intensity(low=low, high=high))
    assert medium.beside == ("json",)
    x, fixed = npy(values()), Bands(24, 1, Intensity(low=100, high=300))
    said = json.dumps({"window_low": 100, "window_high": 300, "w": {"low": [100], "high": 300}}).encode()
    assert (medium.plain(opened(medium, x, json=said)) == fixed.plain(opened(fixed, x))).all()
    for wrong, why in [
        (b"{}", "is missing"),
        (b'{"window_low": "a", "window_high": 1, "w": {"low": [1, 2], "high": 4}}', "is a str|2 numbers"),
        (b'{"window_low": 3, "window_high": 3, "w": {"low": 4, "high": 4}}', "not below"),
    ]:
        with pytest.raises(Fault, match=why) as found:
            medium.plain(opened(medium, x, json=wrong))
        assert found.value.reason == "no_range"


def test_boxes_are_those_of_photographs():
    """A deep image of 8 bits is what the photo of it is, up to the rounding to 8 bits."""
    x = 100 + values(3, top=56, dtype=np.uint8, size=(60, 45))  # so that no overshoot is cut between two passes
    data = io.BytesIO()
    Image.fromarray(np.moveaxis(x, 0, -1)).save(data, "PNG")
    how = Augment(crop_scale=(0.3, 1.0), shift=0.1, flip=0.5, brightness=0.2, saturation=0.3, hue=0.1, grey=0.2)
    photo = Photo(24, augments=[how])
    deep = Bands(24, 3, Intensity(low=0, high=255), augments=[how])
    a, b = (views(medium, data.getvalue(), how) for medium in (photo, deep))
    assert np.abs(a / 255 - b).max() < 2.5 / 255  # a photo is rounded after each pass of the resampling, and again
    assert (
        np.abs(photo.plain(opened(photo, data.getvalue())) / 255 - deep.plain(opened(deep, data.getvalue()))).max()
        < 1.01 / 255
    )


def test_brightness_and_contrast_are_of_each_band():
    medium = Bands(29, 5, Intensity(low=0, high=8192))
    x = 1000 + values(5, size=(29, 29), top=2000)
    how = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), brightness=0.4, contrast=0.3)
    got = views(medium, npy(x), how, count=16)
    unit, ratios = np.moveaxis(x, 0, -1) / 8192, []
    for view in got:
        for band in range(5):
            slope, offset = np.polyfit(unit[..., band].ravel(), view[..., band].ravel(), 1)
            assert np.abs(slope * unit[..., band] + offset - view[..., band]).max() < 1e-5  # nothing but a line
            bright = view[..., band].mean() / unit[..., band].mean()  # contrast leaves the mean
            ratios.append((bright, slope / bright))
    ratios = np.array(ratios)
    assert (np.abs(ratios - 1) < [0.4 + 1e-4, 0.3 + 1e-4]).all()
    assert (ratios.std(0) > [0.15, 0.1]).all()  # each its own


def test_a_blur_is_gaussian():
    medium, x = Bands(29, 2, WINDOW), values(2, size=(29, 29))
    whole = medium.decode(opened(medium, npy(x)))
    recipe = medium.draw(Augment(), np.array([[29, 29]]), key(np.arange(1)))[0]._replace(box=(0, 0, 29, 29), sigma=1.5)
    wanted = [gaussian_filter(band / 4095, 1.5, mode="nearest") for band in x]
    assert np.abs(np.moveaxis(medium.cut(whole, recipe), -1, 0) - wanted).max() < 0.01  # ends at 3 deviations


def test_the_background_shows_beyond_the_border():
    x = np.full((2, 40, 40), 2048, np.uint16)
    how = Augment(shift=0.5)
    medium = Bands(20, 2, WINDOW, background=(51, 204), cut_resample="bilinear", augments=[how])
    seen = views(medium, npy(x), how, count=32)
    assert np.isclose(seen[..., 0].min(), 0.2)
    assert np.isclose(seen[..., 1].max(), 0.8)


def test_transparent_pixels_show_the_background():
    x = values(4, top=65536)
    x[3, :, :10], x[3, :, 10:] = 0, 65535
    medium = Bands(29, 3, Intensity(low=0, high=65535), background=(51, 51, 51))
    shown = np.moveaxis(np.stack([np.asarray(band) for band in medium.decode(opened(medium, png16(x))).bands]), 0, -1)
    assert np.allclose(shown[:, :10], 0.2)
    assert np.allclose(shown[:, 10:], np.moveaxis(x[:3], 0, -1)[:, 10:] / 65535)
    four = Bands(29, 4, Intensity(low=0, high=65535))
    assert np.asarray(four.decode(opened(four, png16(x))).bands[3]).min() == 0  # asked for, alpha is a band


def test_grey_is_shown_to_three_channels_and_grey_photographs_to_one():
    x = values(1)
    three, one = Bands(24, 3, WINDOW), Bands(24, 1, WINDOW)
    wanted = one.plain(opened(one, npy(x)))
    assert (three.plain(opened(three, npy(x))) == wanted).all()
    assert (one.plain(opened(one, npy(np.repeat(x, 3, 0)))) == wanted).all()
    with pytest.raises(Fault, match="3 bands that differ"):
        one.plain(opened(one, npy(values(3))))


def test_numbers_without_a_range_say_what_to_set():
    medium = Bands(24, 1)
    for dtype in (np.float32, np.float16, np.int16, np.uint32):
        with pytest.raises(Fault, match="set data.intensity=") as found:
            medium.plain(opened(medium, npy(values(dtype=dtype))))
        assert found.value.reason == "no_range"
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535), (np.bool_, 1)):
        x = values(size=(24, 24), dtype=dtype)
        assert np.abs(medium.plain(opened(medium, npy(x)))[..., 0] - x[0] / top).max() < 1e-6


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({}, "one of the three"),
        ({"low": 1}, "one of the three"),
        ({"low": 1, "high": 2, "percentile": [1, 99]}, "one of the three"),
        ({"low": 2, "high": 1}, "not below"),
        ({"center": 2, "width": 0}, "not below"),
        ({"percentile": [99, 1]}, "the lower first"),
        ({"low": "txt", "high": 3}, "neither a number nor json:FIELD"),
        ({"low": [1, 2], "high": [3, 4, 5]}, "2 numbers and 3"),
    ],
)
def test_a_bad_intensity_is_a_sentence(tree, why):
    with pytest.raises(ConfigError, match=why):
        check(DataConfig, {"train": "x.tar", "intensity": tree})


def test_the_medium_is_what_model_and_data_ask_for():
    def of(channels=3, held=None, **data):
        return choose(Square(8, channels=channels, intensity=held), load(DataConfig, {"train": "x.tar", **data}))

    assert isinstance(of(), Photo)
    assert isinstance(of(intensity={"low": 0, "high": 1}), Bands)
    assert isinstance(of(held={"low": 0, "high": 1}), Bands)
    assert of(held={"low": 0, "high": 1}).intensity == Intensity(low=0, high=1)
    assert of(held={"low": 0, "high": 1}, intensity={"percentile": [1, 2]}).intensity == Intensity(percentile=(1, 2))
    assert (of(5).background == 1).all()
    assert of(5, background=[0, 0, 51, 0, 0]).background.tolist() == pytest.approx([0, 0, 0.2, 0, 0])
    for bad in ({"background": [1, 2, 3]}, {"intensity": {"low": [1, 2], "high": 5}}):
        with pytest.raises(ConfigError, match="model.image.channels is 5"):
            of(5, **bad)
    assert choose(Square(8)).note == ""
    notes = {
        choose(Square(8, channels=c, intensity=i)).note
        for c in (1, 3)
        for i in ({"low": 0, "high": 1}, {"low": 0, "high": 2})
    }
    assert len(notes) == 4


def test_arrays_and_images_in_memory_are_taken_as_their_files_are():
    medium, x = Bands(24, 1, WINDOW), values()
    wanted = medium.plain(opened(medium, npy(x)))
    for given in (x, x[0], x[0][..., None], Image.fromarray(x[0]), x.astype(np.float32)):
        assert (medium.plain(medium.given(given)) == wanted).all()
    with pytest.raises(ValueError, match="4 dimensions"):
        medium.given(x[None])
    with pytest.raises(ValueError, match="only real numbers"):
        medium.given(np.array(["a"]))


def test_people_see_an_image():
    for bands in (1, 2, 3, 5):
        medium = Bands(24, bands, WINDOW)
        shown = medium.show(opened(medium, npy(values(bands, size=(400, 100)))), 50)
        assert (shown.mode, shown.size) == ("RGB", (50, 12))
