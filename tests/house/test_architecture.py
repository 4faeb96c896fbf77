"""docs/architecture.md is a map of what is there: every path, every name in a file, every folder of code."""

import ast
import re

import pytest

from tests.house.page import PAGE, ROOT, block

MENTIONS = sorted(set(re.findall(r"`([\w./-]*[\w-]+(?:/|\.(?:py|md|yaml|json|html))(?::[\w.]+)?)`", PAGE)))
PLACES = [
    m
    for m in MENTIONS
    if "/" in m
    and not re.search(r"NAME|ROOM|LIBRARY", m)
    and m.split("/")[0] in {"mmclr", "eval", "data_tools", "tests", "configs", "docs", "benchmarks"}
]


def names_of(path):
    """Return what a file defines at its top, and in its classes as Class.name, fields and methods."""

    def own(body):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name, node
            elif isinstance(node, ast.AnnAssign):
                yield ast.unparse(node.target), None
            elif isinstance(node, ast.Assign):
                yield from ((ast.unparse(target), None) for target in node.targets)

    for name, node in own(ast.parse(path.read_text(encoding="utf-8")).body):
        yield name
        if isinstance(node, ast.ClassDef):
            yield from (f"{name}.{inner}" for inner, _ in own(node.body))


@pytest.mark.parametrize("place", PLACES)
def test_what_is_mentioned_exists(place):
    path, _, name = place.partition(":")
    assert (ROOT / path).exists(), f"there is no {path}"
    assert not path.endswith("/") or (ROOT / path).is_dir()
    assert not name or name in set(names_of(ROOT / path)), f"{path} has no {name}"


def rooms():
    """Return the folders of the tree."""
    above = []
    for line in block("tree"):
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, about = line.strip().partition(" ")
        assert name.endswith("/"), line
        assert about.strip(), f"{name} has no word about it"
        above = [*above[:depth], name]
        yield "".join(above)


def test_the_tree_has_every_folder_of_code():
    listed = list(rooms())
    assert [room for room in listed if not (ROOT / room).is_dir()] == []
    packages = {path.parent for top in ("mmclr", "eval", "data_tools") for path in (ROOT / top).rglob("*.py")}
    assert {str(path.relative_to(ROOT)) + "/" for path in packages} <= set(listed)


def test_links_inside_the_page_lead_somewhere():
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGE):
        assert target[1:] in anchors if target[0] == "#" else (ROOT / "docs" / target).exists(), target


def test_the_page_says_where_things_are():
    """A page without names would pass the tests above."""
    assert len([place for place in PLACES if ":" in place]) > 150
