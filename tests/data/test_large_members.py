"""Members larger than any image or text: a counted fault, found before they are read, wherever samples are read."""

import os
import tarfile
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmclr.data_tools.caption import open_images
from mmclr.data_tools.commands.inspect.verify import verify
from mmclr.data_tools.lib.every_sample import every_sample
from mmclr.eval.sets.sources import open_set

from mmclr.config import load
from mmclr.data.pixels.choose import choose
from mmclr.data.samples.fields import IMAGE_BYTES, JSON_BYTES
from mmclr.data.samples.reader import read_all
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_index
from mmclr.data.shards.shards import Shards
from mmclr.data.stream import batch_builder
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.data.tabular.rows import read_image
from tests.data.made import pair, rows, take

GOOD, SIZE = 12, 1 << 30
BEGIN = {"png": pair(99)["png"], "json": b'{"title": "a"} ', "txt": b"text " * 1000}


def shard(path, large):
    """Write GOOD samples, and before the last one with a member of SIZE bytes, most of which are a hole."""
    numbers = [*range(GOOD - 1), 99, GOOD - 1]
    with open(path, "wb") as file:
        for number in numbers:
            for name, data in pair(number).items():
                info = tarfile.TarInfo(f"{number:03d}.{name}")
                info.size = SIZE if (number, name) == (99, large) else len(data)
                file.write(info.tobuf(tarfile.USTAR_FORMAT))
                end = file.tell() + -(-info.size // 512) * 512
                file.write(BEGIN[name] if info.size == SIZE else data)
                file.truncate(end)
                file.seek(end)
        file.truncate(file.tell() + 1024)
    return str(path)


@pytest.fixture
def asked(monkeypatch):
    """The sizes of all reads."""
    sizes, pread = [0], os.pread

    def counted(file, size, offset):
        sizes.append(size)
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    return sizes


FIELD = {"png": "txt", "json": "json:title", "txt": "txt"}


@pytest.mark.parametrize("large", FIELD)
def test_all_readers_count_it_and_read_no_more_than_tells_so(tmp_path, tokenizer, asked, large):
    photos = choose(16)
    url, field = shard(tmp_path / "a.tar", large), FIELD[large]
    reason = "bad_image" if large == "png" else "bad_text"
    config = load(DataConfig, {"train": url, "batch": GOOD + 1, "workers": 0, "caption": field, "max_faults": 1})
    loader = Loader(config, tokenizer, 16, seed=0)
    batch = take(loader, 1)[0]
    assert [entry.reason for entry in batch.faults] == [reason]
    assert len(set(batch.keys)) == GOOD
    reader = read_all(url, 16, caption=field)
    assert sum(len(part.keys) for part in reader) == GOOD
    assert reader.ledger.counts == {reason: 1}
    data = open_set(url, caption=field, max_faults=1)
    lost = [1 for i in range(len(data)) if large == "png" and faulty(data.read, i)]
    assert len(data) - len(lost) == GOOD
    assert max(asked) <= JSON_BYTES + 4096
    if large == "png":
        assert [entry.reason for entry in verify([open_index(url)]).faults] == [reason]
        assert sum(faulty(partial(open_images([url], photos).read, medium=photos), i) for i in range(GOOD + 1)) == 1
        assert max(asked) <= JSON_BYTES + 4096


def faulty(read, number):
    try:
        read(number)
    except Fault:
        return True
    return False


def test_another_caption_is_used(tmp_path, tokenizer):
    url = shard(tmp_path / "a.tar", "txt")
    config = load(DataConfig, {"train": url, "batch": GOOD + 1, "workers": 0, "caption": {"txt": 1, "json:title": 1}})
    batch = take(Loader(config, tokenizer, 16, seed=0), 1)[0]
    assert len(set(batch.keys)) == GOOD + 1
    assert [entry.reason for entry in batch.faults] == ["lost_caption"]


def test_what_is_copied_is_copied_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("mmclr.data.shards.shards.JSON_BYTES", 100)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in {"a.png": BEGIN["png"], "a.json": b'"%s"' % (b"x" * 500)}.items():
            (tmp_path / name).write_bytes(data)
            tar.add(tmp_path / name, name)
    index = open_index(str(tmp_path / "a.tar"))
    assert len(every_sample([index], Ledger()).read(0).members["json"]) == 502
    assert len(Shards([index], ("json",)).read(0).members["json"]) == 101


def test_files_of_images(tmp_path):
    """A folder's image that is too large is not read, nor is one that is a pipe waited for."""
    photos = choose(16)
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(IMAGE_BYTES + 1)
    os.mkfifo(tmp_path / "b.png")
    for name, said in (("a.png", "bytes, more than the"), ("b.png", "is no file"), ("c.png", "c.png")):
        with pytest.raises(Fault) as found:
            read_image(tmp_path / name)
        assert said in found.value.detail
        with pytest.raises(Fault):
            open_images([str(tmp_path)], photos).read({"a.png": 0, "b.png": 1}.get(name, 1), photos)


@given(st.lists(st.integers(0, 3 * batch_builder.ROOM) | st.integers(0, 9), max_size=300))
def test_images_that_are_open_at_once_have_room(sizes):
    parts = batch_builder._chunks(np.arange(len(sizes)), np.array(sizes, np.int64))
    assert [row for part in parts for row in part] == list(range(len(sizes)))
    for part in parts:
        assert 0 < len(part) <= batch_builder.TOGETHER
        assert sum(sizes[row] for row in part[1:]) <= batch_builder.ROOM


def test_parts_of_a_batch_change_nothing(make_loader, monkeypatch):
    batch = take(make_loader(batch=24), 1)[0]
    monkeypatch.setattr(batch_builder, "ROOM", 3000)
    assert rows(take(make_loader(batch=24), 1)[0]) == rows(batch)
