"""Sidecars are made once, renewed when the shard changes, and samples come together by their keys."""

import os
import random
import re
import subprocess
import sys
import tarfile

import pytest

from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards import index as index_module
from mmclr.data.shards import tar
from mmclr.data.shards.index import open_index, open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import Stat
from mmclr.errors import UserError
from tests.data.made import pair, write_tar
from tests.data.test_tar import oracle, random_tar


def members(index):
    return [(index.key(row), {ext for ext, _, _ in index.members(row)}) for row in range(len(index))]


def complete(numbers):
    return [(f"{n}.{ext}", data) for n in numbers for ext, data in pair(n).items()]


def test_sidecar_is_used_until_the_shard_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", complete(range(3)))
    scans = []
    monkeypatch.setattr(index_module.tar, "scan", lambda *a, scan=index_module.tar.scan: scans.append(1) or scan(*a))
    first = open_index(str(path))
    again = open_index(str(path))
    assert members(first) == members(again) == [(str(n), {"png", "txt", "json"}) for n in range(3)]
    assert len(scans) == 1
    write_tar(path, complete(range(4)))
    os.utime(path, ns=(1, 1))
    assert len(open_index(str(path))) == 4
    assert len(scans) == 2
    (tmp_path / "a.tar.index").write_bytes(b"half a file")
    assert len(open_index(str(path))) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index"]


def test_read_only_folder_is_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    folder.mkdir()
    path = write_tar(folder / "a.tar", complete(range(3)))
    folder.chmod(0o555)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(open_index(str(path))) == 3
    assert [p.name for p in folder.iterdir()] == ["a.tar"]
    assert len(list((tmp_path / "cache" / "mmclr" / "index").iterdir())) == 1
    folder.chmod(0o755)


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_belong_by_key_wherever_they_stand(tmp_path, fmt):
    names = ["b/0.jpg", "b/1.jpg", "a/0.txt", "b/0.TXT", "b/1.txt", "b/1.seg.png", "a/0.jpg", "__note__.json", "README"]
    path = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names], fmt)
    index = open_index(str(path))
    assert members(index) == [
        ("b/0", {"jpg", "txt"}),
        ("b/1", {"jpg", "txt", "seg.png"}),
        ("a/0", {"txt", "jpg"}),
        ("__note__", {"json"}),
    ]
    assert {reason: count for reason, (count, _) in index.left_out.items()} == {"no_key": 1}
    shards = Shards([index])
    read = [shards.read(n).members for n in range(3)]
    assert read[0] == {"jpg": b"b/0.jpg", "txt": b"b/0.TXT"}
    assert read[2] == {"jpg": b"a/0.jpg", "txt": b"a/0.txt"}


def test_duplicate_keys_are_two_samples(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", [(name, b"") for name in ["0.jpg", "0.txt", "1.jpg", "1.txt", "0.jpg", "0.txt"]]
    )
    assert members(open_index(str(path))) == [(key, {"jpg", "txt"}) for key in "010"]


def test_half_samples_are_counted_by_reason(tmp_path):
    names = ["0.jpg", "0.txt", "1.jpg", "2.txt", "3.jpg", "3.json", "4.jpg", "4.txt", "5.png"]
    path = write_tar(tmp_path / "a.tar", [(name, b"x" * 600) for name in names])
    data = path.read_bytes()
    ledger = Ledger()
    shards = Shards([open_index(str(path))], ledger=ledger)
    assert [shards.read(n).key for n in range(len(shards))] == ["0", "4"]
    assert ledger.excluded == {"no_caption": 3, "no_image": 1}
    assert ledger.examples["no_image"][0].key == "2"
    # cut in the data of 4.txt: that sample, and 5 of which nothing is there
    path.write_bytes(data[: 512 * 3 * 7 + 512 + 100])
    ledger = Ledger()
    shards = Shards([open_index(str(path))], ledger=ledger)
    assert [shards.read(n).key for n in range(len(shards))] == ["0"]
    assert ledger.excluded == {"no_caption": 2, "no_image": 1, "truncated": 1}
    # cut exactly between two members: webdataset gives the half sample and says nothing
    path.write_bytes(data[: 512 * 3 * 7])
    ledger = Ledger()
    Shards([open_index(str(path))], ledger=ledger)
    assert ledger.excluded["truncated"] == 1
    # cut in the first member of a sample: its key is all that is left
    path.write_bytes(data[: 512 * 3 * 8 + 512 + 100])
    ledger = Ledger()
    Shards([open_index(str(path))], ledger=ledger)
    assert ledger.examples["truncated"][0].key == "5"


def test_what_is_no_shard(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match=r"a\.tar: not a tar file"):
        open_index(str(tmp_path / "a.tar"))
    with pytest.raises(UserError, match="no such file"):
        open_index(str(tmp_path / "b.tar"))
    (tmp_path / "c.tar").mkdir()
    with pytest.raises(UserError, match=r"c\.tar: .*directory"):
        open_index(str(tmp_path / "c.tar"))


def test_empty_archives(tmp_path):
    paths = [write_tar(tmp_path / f"{n}.tar", []) for n in range(2)]
    (tmp_path / "2.tar").write_bytes(b"")
    indices = open_indices([*map(str, paths), str(tmp_path / "2.tar")])
    assert [len(index) for index in indices] == [0, 0, 0]
    assert indices[2].truncated
    assert not indices[0].truncated
    with pytest.raises(UserError, match="no usable sample in 3 shards"):
        Shards(indices)


def test_random_archives_give_the_same_members():
    """Every member with a key, at its place, and nothing else: Python's tarfile and a regular expression as oracle."""
    draw = random.Random(7)
    for _ in range(200):
        data = random_tar(draw)
        scan = tar.scan(lambda offset, size, data=data: data[offset : offset + size], len(data))
        index = index_module._group("x.tar", Stat(len(data), ""), scan)
        got = [(index.key(row), *member) for row in range(len(index)) for member in index.members(row)]
        expected = []
        for name, offset, size in oracle(data):
            match = re.fullmatch(r"((?:.*/|)[^./]+)\.([^/]*)", name)
            if match:
                expected.append((match[1], match[2].lower(), offset, size))
        assert sorted(got) == sorted(expected)


def test_thousands_of_shards_need_few_open_files(tmp_path):
    write_tar(tmp_path / "0.tar", complete(range(2)))
    for n in range(1, 600):
        os.link(tmp_path / "0.tar", tmp_path / f"{n}.tar")
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import Stat
from mmclr.data.shards.sources import expand
shards = Shards(open_indices(expand({str(tmp_path / "*.tar")!r})))
print(sum(len(shards.read(n).members) for n in range(len(shards))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{600 * 4}\n", done.stderr
