"""Arrays in place of images: what a member may be, what is seen of it, and batches of them."""

import io
import math

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from mmclr.config import ConfigError, check
from mmclr.data.pixels.choose import choose
from mmclr.data.samples.skipped import Fault
from mmclr.data.settings import DataConfig
from mmclr.data.stream.loader import Loader
from mmclr.models.config import ArrayConfig, ImageConfig
from tests.data.arrays import ROWS, SIGNALS, encoded, medium, series
from tests.data.made import write_tar


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
