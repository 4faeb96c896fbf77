"""Arrays in place of images: what a member may be, what is seen of it, what is drawn, and that draws are pure."""

import io
import math

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from mmclr.config import ConfigError, check, load
from mmclr.data.pixels.array import Array
from mmclr.data.pixels.array_augment import ArrayAugment, draw
from mmclr.data.pixels.choose import choose
from mmclr.data.random import key
from mmclr.data.samples.skipped import Fault
from mmclr.data.settings import DataConfig
from mmclr.data.stream.loader import Loader
from mmclr.models.config import ArrayConfig, ImageConfig
from tests.data.made import write_tar

SIGNALS = ArrayConfig(channels=2, length=8, patch=2)
ROWS = ArrayConfig(channels=5, length=1)


def medium(kind=SIGNALS, mean=0.0, std=1.0, **settings):
    return Array(kind, [mean] * kind.channels, [std] * kind.channels, **settings)


def encoded(x, **settings):
    out = io.BytesIO()
    np.save(out, np.asarray(x), **settings)
    return out.getvalue()


def series(steps, channels=2, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(steps, channels)).astype(dtype)


def plain(x, made=None):
    made = made or medium()
    return made.plain(made.open(encoded(x)))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "i1", "u1", "<i2", ">i2", "<u4", "<i8", "?"])
def test_real_numbers_of_every_kind_are_read(dtype):
    x = (series(8) * 3).astype(dtype)
    np.testing.assert_array_equal(plain(x), x.astype(np.float32))
    np.testing.assert_array_equal(plain(np.asfortranarray(x)), x.astype(np.float32))


def test_version_2_of_the_format_is_read():
    x, out = series(8), io.BytesIO()
    npy.write_array(out, x, version=(2, 0))
    made = medium()
    np.testing.assert_array_equal(made.plain(made.open(out.getvalue())), x)


@pytest.mark.parametrize(("steps", "first"), [(9, 0), (10, 1), (11, 1), (30, 11)])
def test_of_a_longer_one_the_middle_is_seen(steps, first):
    x = series(steps)
    np.testing.assert_array_equal(plain(x), x[first : first + 8])


@pytest.mark.parametrize("steps", [1, 5, 7])
def test_behind_the_end_of_a_shorter_one_there_is_nothing(steps):
    x = series(steps)
    found = plain(x)
    np.testing.assert_array_equal(found[:steps], x)
    assert np.isnan(found[steps:]).all()


def test_one_channel_needs_no_second_axis_and_a_row_no_first():
    one, row = medium(ArrayConfig(channels=1, length=8, patch=2)), medium(ROWS)
    x = series(8, 1)
    np.testing.assert_array_equal(one.plain(one.open(encoded(x[:, 0]))), x)
    np.testing.assert_array_equal(row.plain(row.open(encoded(np.arange(5)))), [[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(row.plain(row.open(encoded([[0, 1, 2, 3, 4]]))), [[0, 1, 2, 3, 4]])


def pickled():
    out = io.BytesIO()
    np.save(out, np.array([{}, []], object), allow_pickle=True)
    return out.getvalue()


def broken(header):
    """Return a .npy whose header is what `header` makes of the usual one."""
    data = encoded(series(8))
    size = int.from_bytes(data[8:10], "little")
    text = header(data[10 : 10 + size].decode()).encode()
    return data[:8] + len(text).to_bytes(2, "little") + text + data[10 + size :]


WRONG = {
    "nothing": (b"", "the member is empty"),
    "no array": (b"hello", "not a .npy file"),
    "npz": (b"PK\3\4aaaa", "of an .npz take one array out"),
    "objects": (pickled(), "dtype object: Python objects are pickles, which are never read"),
    "complex": (encoded(series(8).astype(complex)), "dtype complex128: only real numbers"),
    "long double": (encoded(series(8).astype(np.longdouble)), "only real numbers of at most 64 bits"),
    "structured": (encoded(np.zeros(8, [("a", "f4"), ("b", "f4")])), "only real numbers"),
    "text": (encoded(np.array(["a", "b"])), "dtype <U1: only real numbers"),
    "dates": (encoded(np.zeros((8, 2), "M8[s]")), "only real numbers"),
    "no steps": (encoded(np.zeros((0, 2), np.float32)), r"\[0, 2\]: it has no steps"),
    "three axes": (encoded(np.zeros((3, 8, 2))), r"an array \[3, 8, 2\], and the model reads \[time, 2\]"),
    "no axis": (encoded(np.float32(1)), r"an array \[\], and the model reads"),
    "one axis": (encoded(np.zeros(8)), r"an array \[8\], and the model reads \[time, 2\]"),
    "other channels": (encoded(np.zeros((8, 3))), r"an array \[8, 3\], and the model reads \[time, 2\]"),
    "turned": (encoded(np.zeros((2, 8))), r"an array \[2, 8\], .*turn it round"),
    "edges": (encoded(np.zeros((2, 7), np.int64)), "edges of a graph are not read"),
    "NaN": (encoded([[0, 1], [2, math.nan], [0, math.inf]]), "nan at step 1, channel 1 and 1 more"),
    "beyond float32": (encoded([[0, 1e300]]), "inf at step 0, channel 1:"),
    "cut": (encoded(series(8))[:-5], "5 bytes are missing"),
    "more": (encoded(series(8)) + b"12", "2 bytes too many"),
    "a version of tomorrow": (b"\x93NUMPY\7\0" + encoded(series(8))[8:], "header cannot be read"),
    "a header of code": (broken(lambda text: "__import__('os').getpid()"), "header cannot be read"),
    "a negative shape": (broken(lambda text: text.replace("(8, 2)", "(-8, 2)")), "header cannot be read|missing|many"),
    "a nested header": (broken(lambda text: "(" * 5000), "header cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_a_fault_with_a_sentence(name, recwarn):
    data, says = WRONG[name]
    made = medium()
    with pytest.raises(Fault, match=says) as caught:
        made.plain(made.open(data))
    assert caught.value.reason == "bad_array"


def test_a_row_is_asked_for_as_one():
    with pytest.raises(Fault, match=r"an array \[4\], and the model reads a row \[5\]"):
        plain(np.zeros(4), medium(ROWS))
    with pytest.raises(Fault, match=r"an array \[2, 5\], and the model reads a row \[5\]"):
        plain(np.zeros((2, 5)), medium(ROWS))


def test_no_memory_is_taken_for_what_a_header_claims():
    data = broken(lambda text: text.replace("(8, 2)", f"({1 << 60}, 2)"))
    with pytest.raises(Fault, match="values is more than") as caught:
        medium().open(data)
    assert caught.value.reason == "too_many_pixels"
    with pytest.raises(Fault, match=r"\[8, 2\] of 16 values is more than 15"):
        medium(max_pixels=15).open(encoded(series(8)))


def test_what_lies_in_memory_is_taken_as_a_file_is():
    made, x = medium(), series(5)
    for value in (x, torch.from_numpy(x), x.tolist(), x.astype(np.float64)):
        np.testing.assert_array_equal(made.plain(made.given(value)), plain(x))
    with pytest.raises(ValueError, match="and the model reads"):
        made.given(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="give real numbers"):
        made.given([["a", "b"]])


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


def image(kind=SIGNALS):
    return ImageConfig(array=kind)


def test_what_is_of_images_is_not_of_arrays():
    given = check(DataConfig, {"train": "x.tar", "augment": {"flip": 0.5}})
    with pytest.raises(ConfigError, match=r"data.augment is of images.*set data.array_augment"):
        choose(image(), given)
    given = check(DataConfig, {"train": "x.tar", "array_view_augment": {"jitter": 0.5}})
    with pytest.raises(ConfigError, match=r"data.array_view_augment is of arrays"):
        choose(ImageConfig(), given)


@pytest.fixture
def shard(tmp_path):
    """Arrays of different lengths, of which three cannot be used."""
    samples = [{"npy": encoded(series(4 + i, seed=i)), "txt": f"series {i}".encode()} for i in range(20)]
    samples[3]["npy"], samples[9]["npy"] = pickled(), encoded(series(8, 3))
    samples[11]["npy"] = encoded([[0, math.nan]])
    members = [(f"{n:04d}.{ext}", data) for n, sample in enumerate(samples) for ext, data in sample.items()]
    return write_tar(tmp_path / "arrays.tar", members)


def batches(tokenizer, shard, count, world=1, rank=0, **settings):
    data = {"train": str(shard), "batch": 4, "workers": 0, "views": 2, "max_faults": 1.0, **settings}
    how = {"array_augment": {"crop": [0.5, 1.0], "jitter": 0.1}}
    loader = Loader(check(DataConfig, how | data), tokenizer, image(), seed=3, rank=rank, world=world)
    every = iter(loader)
    return [next(every) for _ in range(count)], loader


def test_a_batch_of_arrays(shard, tokenizer):
    found, loader = batches(tokenizer, shard, 10)
    for batch in found:
        assert batch.pixels.shape == (4, 2, 8)
        assert batch.views.shape == (4, 2, 2, 8)
        assert batch.pixels.dtype == torch.float32
        assert not batch.pixels[:, :, 0].isnan().any()
        index = batch.index.tolist()
        assert not {3, 9, 11} & set(index)
        for row, at in enumerate(index):
            left, _, right, _ = batch.image_box[row].tolist()
            steps = round((right - left) * (4 + at))
            assert int((~batch.pixels[row, 0].isnan()).sum()) == steps
    assert set(loader.ledger.counts) == {"bad_array"}


def test_two_ranks_see_what_one_sees_and_memory_changes_nothing(shard, tokenizer):
    (whole, _), (cached, _) = batches(tokenizer, shard, 6), batches(tokenizer, shard, 6, cache="decoded")
    ranks = [batches(tokenizer, shard, 6, world=2, rank=rank)[0] for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for name in ("pixels", "views"):
            one = getattr(batch, name)
            two = torch.cat([getattr(part[step], name) for part in ranks])
            torch.testing.assert_close(one, two, atol=0, rtol=0, equal_nan=True)
            torch.testing.assert_close(one, getattr(cached[step], name), atol=0, rtol=0, equal_nan=True)
