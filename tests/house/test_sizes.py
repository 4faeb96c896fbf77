"""Rooms that can be looked over: few files in a folder, short files, the right room from the tree alone."""

import statistics
from collections import Counter

import pytest

from tests.house.page import ROOT

FILES = [path for top in ("mmclr", "eval", "data_tools") for path in (ROOT / top).rglob("*.py")]
LINES = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
OBJECTIVES = ("clusters", "hard", "pairs", "regularizers", "soft", "temperature", "views")  # a file each, so they grow
OBJECTIVES = [ROOT / "mmclr" / "losses" / name for name in OBJECTIVES]


def test_no_file_is_long():
    assert {str(path.relative_to(ROOT)): n for path, n in LINES.items() if n > 300} == {}
    assert statistics.median(LINES.values()) <= 90


def test_no_test_and_no_benchmark_is_long():
    paths = [path for top in ("tests", "benchmarks", "examples") for path in (ROOT / top).rglob("*.py")]
    long = {path: n for path in paths if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert long == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda f: str(f.relative_to(ROOT)))
def test_no_folder_is_full(folder):
    if folder not in OBJECTIVES:
        assert Counter(path.parent for path in FILES)[folder] <= 14


def test_no_code_of_a_command_in_a_packages_init():
    for path in FILES:
        assert path.name != "__init__.py" or "def main(" not in path.read_text(encoding="utf-8"), path
