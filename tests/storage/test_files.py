"""Files are whole or not there, whatever call a kill comes in."""

import os
import stat

import pytest

from mmclr.storage.whole_file import checksum, write_whole
from tests.kills import kill_at_every_call


def test_a_kill_in_any_call_leaves_the_old_or_the_new(tmp_path):
    path, old, new = tmp_path / "a.json", b"old" * 1000, b"new!" * 3000
    seen = set()

    def check(number):
        seen.add(path.read_bytes())
        path.write_bytes(old)

    path.write_bytes(old)
    count = kill_at_every_call(lambda: write_whole(path, new), check)
    assert count >= 3, "write, fsync, replace"
    assert seen == {old, new}


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


def test_permissions_stay_and_links_are_not_followed(tmp_path):
    path, other = tmp_path / "a", tmp_path / "others"
    path.write_text("")
    path.chmod(0o604)
    write_whole(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    other.write_text("not ours")
    (tmp_path / "link").symlink_to(other)
    write_whole(tmp_path / "link", "new")
    assert other.read_text() == "not ours"
    write_whole(os.devnull, "what is no file is written to")
    assert not os.path.isfile(os.devnull)
    mask = os.umask(0o027)
    write_whole(tmp_path / "fresh", "")
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_any_flipped_bit_changes_the_checksum(tmp_path):
    path = tmp_path / "a"
    data = bytearray(os.urandom(257))
    path.write_bytes(data)
    before = checksum(path)
    for bit in range(0, len(data) * 8, 5):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert checksum(path) != before
        data[bit // 8] ^= 1 << bit % 8


def test_the_harness_kills(tmp_path):
    assert kill_at_every_call(lambda: None, lambda number: None) == 0
    reached = []
    (tmp_path / "a").write_text("")
    assert kill_at_every_call(lambda: os.rename(tmp_path / "a", tmp_path / "b"), reached.append) == 1
    assert reached == [1, 2], "killed before the call, then done"
