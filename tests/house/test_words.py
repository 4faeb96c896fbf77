"""Docstrings say what a thing is or does, and the field's word is image."""

import ast
import re

import pytest

from tests.house.page import ROOT

FILES = sorted(path for top in ("mmclr", "eval", "data_tools") for path in (ROOT / top).rglob("*.py"))
QUESTION = re.compile(r"(What|How|Which|Where|When|Who|Why|Is|Does|Can)\b")
# what earlier versions wrote is read by its words, and a name of theirs goes with 0.3
PICTURES = {
    "data_tools/caption.py": 3,
    "data_tools/commands/inspect/verify.py": 1,
    "eval/embed/embedder.py": 1,
    "eval/result.py": 1,
    "mmclr/report/command.py": 2,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_is_a_question(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    assert [text for node in nodes if QUESTION.match(text := ast.get_docstring(node) or "")] == []


def test_the_word_is_image():
    found = {}
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        if count := sum(bool(re.search("picture", line, re.IGNORECASE)) for line in lines):
            found[str(path.relative_to(ROOT))] = count
    assert found == PICTURES
