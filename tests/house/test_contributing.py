"""The objectives that README.md and CONTRIBUTING.md show work as they stand, and keep every law."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?:`([\w/.]+)`:\n\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def objectives():
    """Return {path in the repository: text} of what is to be copied there."""
    found = {path: text for path, text in FENCE.findall((ROOT / "CONTRIBUTING.md").read_text()) if path}
    (mine,) = [text for _, text in FENCE.findall((ROOT / "README.md").read_text()) if "Objective" in text]
    return {**found, "mmclr/losses/pairs/my_alignment.py": mine}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with the objectives in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("mmclr", "eval", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "PAPERS.md"):
        shutil.copy(ROOT / name, folder)
    for path, text in objectives().items():
        assert not (folder / path).exists(), f"{path} is there already: the example needs another name"
        (folder / path).write_text(text)
    return folder


def run(copy, *words):
    env = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([*RUN, *words], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_two_files_each_and_no_more():
    parts = ["mmclr/losses/pairs/additive_margin.py", "mmclr/losses/pairs/my_alignment.py"]
    assert sorted(objectives()) == [*parts, "tests/losses/test_additive_margin.py"]


def test_they_keep_the_laws_of_one_process(copy):
    paths = "tests/laws", "tests/losses/test_additive_margin.py"
    assert run(copy, *paths, "-k", "additive_margin or my_alignment", "-m", "not dist") > 30


@pytest.mark.slow
@pytest.mark.dist
def test_they_keep_the_laws_of_several_processes(copy):
    assert run(copy, "tests/laws", "-k", "additive_margin or my_alignment", "-m", "dist") == 6


def test_they_are_in_the_catalogue_and_lint(copy):
    code = "from mmclr.papers import entries\n"
    code += "print(*((e.file, e.arxiv, e.reduces) for e in entries() if e.key == 'additive_margin'))"
    env = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, env=env, capture_output=True, text=True)
    assert "('mmclr/losses/pairs/additive_margin.py', ['1902.08564'], 'clip, for margin 0.')" in done.stdout, (
        done.stderr
    )
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *objectives()], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
