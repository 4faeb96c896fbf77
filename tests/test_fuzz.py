"""The fuzz's guard sees what it is for, and each part of the fuzz gives the same cases for one seed."""

import mmap

import pytest

from mmclr.errors import UserError
from tests.data import mixed
from tests.fuzz import guard
from tests.fuzz.parts import columns, reader, scans, tables
from tests.overrides import drawn


def raises(error):
    raise error


def hangs():
    while True:
        pass


def takes(mib):
    """Take memory from the system: what malloc gives may have been freed before, and is no more than there was."""
    with mmap.mmap(-1, mib << 20) as memory:
        for _ in range(mib):
            memory.write(bytes(1 << 20))


def test_the_guard_tells_what_is_wrong(monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    assert guard.outcome(lambda: None).wrong == ""
    assert guard.outcome(lambda: raises(UserError("a sentence"))).wrong == ""
    assert guard.outcome(lambda: raises(UserError(""))).wrong == "traceback"
    for error in (ValueError("x"), AssertionError(), SystemExit(1), RecursionError()):
        assert guard.outcome(lambda error=error: raises(error)).wrong == "traceback"
    assert guard.outcome(hangs).wrong == "hang"
    monkeypatch.setattr(guard, "BYTES", 50 << 20)
    healthy = guard.outcome(lambda: None).peak
    assert guard.outcome(lambda: takes(10), healthy).wrong == ""
    assert guard.outcome(lambda: takes(90), healthy).wrong == "memory"
    assert guard.outcome(lambda: None, healthy).wrong == ""


@pytest.mark.parametrize("part", [reader, tables, columns, scans])
def test_cases_are_told_by_seed_and_number(part, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    healthy, cases = part(tmp_path / "a", 1, 40)
    assert guard.outcome(healthy.run).wrong == ""
    again = part(tmp_path / "b", 1, 40)[1]
    for number in range(0, 40, 3):
        case = cases(number)
        other = again(number)  # safetensors' headers have no order: an index may be other bytes
        assert (case.name, [*case.files]) == (other.name, [*other.files])
        assert case.files.get("a.tar") == other.files.get("a.tar")
        assert guard.outcome(case.run).wrong == ""


def test_overrides_are_told_by_their_seed():
    assert drawn(3, 30) == drawn(3, 30) != drawn(4, 30)
    assert len(drawn(3, 30)) == 30


def test_whole_shards_hold_every_format():
    assert {data[:4] for name, data in mixed.members() if name.endswith(("png", "jpg", "gif", "tiff", "webp", "bmp"))}
    assert len({name.split(".")[0] for name, _ in mixed.members()}) == len(mixed.IMAGES)
