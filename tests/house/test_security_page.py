"""Every promise of SECURITY.md has its test, and the test is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def functions_in(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_that_is_named_exists():
    there = {file: functions_in(file) for file, _ in NAMED}
    assert [f"{file}::{name}" for file, name in NAMED if name not in (there[file] if name else ("",))] == []
    assert all(there.values())


def test_every_promise_names_its_test():
    promises = re.findall(r"^- (\*\*.*?)(?=^- \*\*|^#|^$)", PAGE, flags=re.M | re.S)
    assert len(promises) >= 18
    assert [text for text in promises if "`tests/" not in text] == []
