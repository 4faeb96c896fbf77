"""Modules by the names that they had: mmclr/moved.tsv, which CHANGELOG.md shows."""

import importlib
import re
import subprocess
import sys

import pytest

from mmclr import moved
from tests.house.page import ROOT

MODULES_AND_NAMES = [line.split("\t") for line in moved.TABLE.read_text(encoding="utf-8").splitlines()]
ROWS = [row for row in MODULES_AND_NAMES if row[0].rpartition(".")[2].islower()]
NAMES = [row for row in MODULES_AND_NAMES if row not in ROWS]


def file_of(name):
    """Return the file of a module in the source tree."""
    path = ROOT / name.replace("mmclr.eval", "eval").replace("mmclr.data_tools", "data_tools").replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@pytest.mark.parametrize(("old", "new"), ROWS)
def test_every_row_leads_to_a_file(old, new):
    assert file_of(new), f"{new} is not there"
    here = file_of(old) if old.startswith("mmclr.") else None
    assert here is None or (here.name == "__init__.py" and new.startswith(f"{old}.")), f"{old} has not moved"


def test_no_name_leads_to_a_name_that_moved_itself():
    olds = {old for old, _ in ROWS}
    assert len(olds) == len(ROWS)
    assert [new for _, new in ROWS if new in olds] == []


def test_the_changelog_has_the_same_table():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text.partition("### Moved modules and names")[2].partition("\n## ")[0]
    shown = [line.split("`")[1::2] for line in table.splitlines() if line.startswith("| `")]
    assert shown == MODULES_AND_NAMES


def test_an_old_name_is_the_very_module_with_a_warning():
    sys.modules.pop("mmclr.draws", None)
    with pytest.warns(DeprecationWarning, match=r"mmclr\.draws is mmclr\.sample_random now"):
        old = importlib.import_module("mmclr.draws")
    new = importlib.import_module("mmclr.sample_random")
    assert old is new
    assert new.__spec__.name == new.__name__ == "mmclr.sample_random"
    del sys.modules["mmclr.draws"]


def test_a_file_that_became_a_room_gives_what_was_in_it():
    room = importlib.import_module("mmclr.data.shards")
    with pytest.warns(DeprecationWarning, match=r"mmclr\.data\.shards\.Shards is"):
        found = room.Shards
    assert found is importlib.import_module("mmclr.data.shards.shards").Shards
    with pytest.raises(AttributeError, match="Shrads"):
        room.Shrads  # noqa: B018
    with pytest.raises(ImportError, match="mmclr.data.nothing"):
        importlib.import_module("mmclr.data.nothing")


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_a_class_that_moved_is_found_in_its_old_module(old, new):
    module, _, name = old.rpartition(".")
    for loaded in [key for key in sys.modules if key == module and module in dict(ROWS)]:
        if dict(ROWS)[module] != f"{module}.towers":
            del sys.modules[loaded]
    with pytest.warns(DeprecationWarning, match=re.escape(module)):
        found = getattr(importlib.import_module(module), name)
    assert found is moved.value(new)


def test_the_evaluations_of_a_checkout_answer_to_their_old_names():
    code = "from eval.scores import accuracy; print(accuracy.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("mmclr.eval.metrics.scores\n", 0), done.stderr
