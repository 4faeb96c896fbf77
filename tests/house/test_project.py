"""What lies around the code agrees with it: version, licence, changelog, citation, the hook before a commit."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import mmclr

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", mmclr.__version__)
    assert 'dynamic = ["version"]' in PROJECT
    assert '[tool.hatch.version]\npath = "mmclr/__init__.py"' in PROJECT
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "mmclr").rglob("*.py")}
    stated = [
        path.relative_to(ROOT).as_posix() for path, text in texts.items() if re.search(r"^__version__", text, re.M)
    ]
    assert stated == ["mmclr/__init__.py"]
    assert not re.search(r"^version", PROJECT, re.MULTILINE)


def test_the_changelog_knows_this_version_and_what_comes():
    titles = re.findall(r"^## (.*)$", CHANGES, re.MULTILINE)
    assert titles[:2] == ["Versions", "Unreleased"]
    assert mmclr.__version__ in titles


PAGES = ["CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target


def test_licence_and_citation_say_the_same():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors", "license"} <= found.keys()
    assert f'license = "{found["license"]}"' in PROJECT
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:200]


def test_the_hook_before_a_commit_is_make_check():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["entry"], hook["pass_filenames"]) == ("local", "make check", False)
    assert re.search(r"^check:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def tables(tree):
    """Return the last lines of the literals that a module gives names to."""
    literals = (ast.Dict, ast.List, ast.Set, ast.Tuple)
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            inner = node.value.args if isinstance(node.value, ast.Call) else [node.value]  # frozenset({...})
            if len(inner) == 1 and isinstance(inner[0], literals):
                yield node.end_lineno


@pytest.mark.parametrize("top", ["mmclr", "eval", "data_tools", "benchmarks"])
def test_the_formatter_is_off_for_tables_alone(top):
    for path in sorted((ROOT / top).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        off = {n for n, line in enumerate(text.splitlines(), 1) if "# fmt: " in line}
        assert off <= set(tables(ast.parse(text))), f"{path.relative_to(ROOT)}: lay it out as ruff does"
