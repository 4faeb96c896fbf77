"""A sidecar that is not what was written is made again; where none can be kept, work goes on."""

import os
import random
import re
import shutil
import subprocess
import sys

import pytest
from mmclr.data_tools.commands.inspect.verify import verify

from mmclr import errors
from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards import cache, sidecar
from mmclr.data.shards.index import open_index
from mmclr.data.shards.shards import Shards
from mmclr.errors import UserError
from tests.data import damage, mixed
from tests.data.made import pair, write_tar


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(errors, "_noted", set())


def shard(path, numbers=range(20)):
    path.parent.mkdir(exist_ok=True)
    return write_tar(path, [(f"{n:03d}.{e}", d) for n in numbers for e, d in pair(n).items()])


def texts(path):
    shards = Shards([open_index(str(path))])
    return [shards.read(n).members["txt"] for n in range(len(shards))]


def expected(numbers=range(20)):
    return [pair(n)["txt"] for n in numbers]


def test_every_damage_is_noticed(tmp_path):
    path = shard(tmp_path / "in" / "a.tar")
    assert texts(path) == expected()
    side = path.with_name("a.tar.index")
    whole, draw = side.read_bytes(), random.Random(0)
    for case in range(48):
        data = bytearray(whole)
        kind, at = case % 4, draw.randrange(len(data))
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data[at : at + 16] = draw.randbytes(len(data[at : at + 16]))
        side.write_bytes(data)
        assert texts(path) == expected(), (kind, at)
    side.write_bytes(bytes(len(whole)))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # where it was kept while this one could not be known as ours
    assert texts(path) == expected()
    assert sidecar.load(side, "a.tar") is not None  # a zeroed one is made again


def test_of_another_shard(tmp_path):
    a, b = shard(tmp_path / "in" / "a.tar"), shard(tmp_path / "in" / "b.tar", range(20, 40))
    assert a.stat().st_size == b.stat().st_size
    for path in (a, b):
        os.utime(path, ns=(5, 5))
    open_index(str(a))
    shutil.copy(f"{a}.index", f"{b}.index")
    assert texts(b) == expected(range(20, 40))


def test_foreign_files_are_left_alone(tmp_path):
    path = shard(tmp_path / "in" / "a.tar")
    path.with_name("a.tar.index").write_bytes(b"v1.2 3\njpg 512 1000\n")  # as other tools write
    assert texts(path) == expected()
    assert path.with_name("a.tar.index").read_bytes().startswith(b"v1.2")


def test_where_nothing_can_be_kept(tmp_path, monkeypatch, capsys):
    path = shard(tmp_path / "in" / "a.tar")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path.parent.chmod(0o555)
    try:
        for _ in range(3):
            assert texts(path) == expected()
        assert [p.name for p in path.parent.iterdir()] == ["a.tar"]
    finally:
        path.parent.chmod(0o755)
    assert capsys.readouterr().err.count("cannot be kept") == 1
    assert os.access(cache.room("streams"), os.W_OK)


def test_without_a_home(tmp_path):
    path = shard(tmp_path / "in" / "a.tar")
    path.parent.chmod(0o555)
    code = f"""
import os, pwd
def gone(*a): raise KeyError(a)
pwd.getpwuid = gone
from mmclr.data_tools.commands.inspect.verify import verify
from mmclr.data.shards import cache, sidecar
from mmclr.data.shards.index import open_index
from mmclr.data.shards.streams import copy_stream
from mmclr.data.shards.sources import expand
assert cache.cache_folder() is None
[url] = expand("pipe:cat {path}", True)
print(len(open_index({str(path)!r})), len(open_index(url)))
"""
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    path.parent.chmod(0o755)
    assert done.stdout == "20 20\n", done.stderr


def test_whatever_a_sidecar_says_a_shard_is_read_or_refused(tmp_path):
    """Of a stranger's: right checksums, size and time, and facts of any type."""
    for seed in range(60):
        draw = random.Random(seed)
        path = damage.write(tmp_path / "a.tar", mixed.SHARDS[0])
        os.utime(path, ns=(5, 5))
        side = tmp_path / "a.tar.index"
        side.unlink(missing_ok=True)
        open_index(path)
        side.write_bytes(mixed.resealed(draw, side.read_bytes()))
        try:
            index = open_index(path)
            shards = Shards([index], ledger=Ledger())
            assert all(shards.read(number).members for number in range(len(shards)))
            assert verify([index]).samples <= len(mixed.IMAGES)
        except UserError as error:
            assert re.search("delete .*a.tar.index|no usable sample", str(error))  # noqa: PT017


def test_readers_that_are_gone_keep_no_file_open_and_no_map(tmp_path):
    def read():
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        texts(shard(tmp_path / "s" / "a.tar"))
        return len(os.listdir("/proc/self/fd")), len(sidecar._maps)

    first = read()
    assert [read() for _ in range(5)] == [first] * 5
