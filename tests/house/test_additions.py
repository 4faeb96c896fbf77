"""One of each kind is added in a copy of the repository: how many files that takes, and that it works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.additions import KINDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What pytest says in the copy with all additions, of their own tests."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("mmclr", "eval", "data_tools", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "tests").mkdir()
    for helper in ("parts.py", "exports.py", "bounds.py"):
        shutil.copy(ROOT / "tests" / helper, copy / "tests")
    tests = []
    for files, lines, _, proof in KINDS.values():
        for path, text in {**files, **proof}.items():
            assert not (copy / path).exists(), f"{path} is there already: the addition needs another name"
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_text(text)
            tests += [path] * path.startswith("tests/")
        for path, before, line in lines:
            table = (copy / path).read_text()
            assert table.count(before) == 1, f"{path}: the anchor {before!r} is not there once"
            (copy / path).write_text(table.replace(before, line + before))
    env = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_an_addition_is_a_few_files_and_works(kind, told):
    files, lines, most, proof = KINDS[kind]
    written = {*files, *(path for path, _, _ in lines)}
    assert len(written) <= most, f"{kind}: {sorted(written)}"
    assert all(line.count("\n") == 1 for _, _, line in lines)
    (test,) = [path for path in {**files, **proof} if path.startswith("tests/")]
    assert set(re.findall(rf"{re.escape(test)}::\w+ (\w+)", told)) == {"PASSED"}, told[-6000:]
