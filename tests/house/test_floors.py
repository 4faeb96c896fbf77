"""docs/architecture.md says what may import what: only strictly lower floors, some packages only in their own rooms.

Imports inside functions, under TYPE_CHECKING and by a module's name as text count.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.page import FLOORS, ROOMS_OF

ROOT = Path(__file__).parents[2]
FILES = sorted(p for top in ("mmclr", "eval", "data_tools") for p in (ROOT / top).rglob("*.py"))
NAMED = re.compile(r"(mmclr(?:\.\w+)+)(?::\w+)?")


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name if name.split(".")[0] == "mmclr" else f"mmclr.{name}"


MODULES = {module_name(path): path for path in FILES}


def room(name: str) -> str | None:
    """Return the entry of FLOORS that `name` lies in."""
    return max((key for key in FLOORS if name == key or name.startswith(key + ".")), key=len, default=None)


def names_in(tree: ast.AST, where: str = "") -> Iterator[str]:
    """Yield the names that a file imports, or names as texts: of a module, or of something in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: write absolute imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = NAMED.fullmatch(node.value)
            if named and module_of(named[1]) == named[1]:
                yield named[1]


def module_of(name: str) -> str | None:
    """Return our module that a name means, or that holds what it means."""
    return next((n for n in (name, name.rpartition(".")[0]) if n in MODULES), None)


IMPORTS = {name: sorted(set(names_in(ast.parse(path.read_text()), name))) for name, path in MODULES.items()}
GRAPH = {me: {there for name in names if (there := module_of(name)) not in (None, me)} for me, names in IMPORTS.items()}


@pytest.mark.parametrize("me", MODULES)
def test_imports_only_lower_floors(me):
    home = room(me)
    if home is None:
        assert me == "mmclr", f"{me} has no floor: give it one in docs/architecture.md"
        return
    for name in IMPORTS[me]:
        there = room(name)
        if there and there != home:
            assert FLOORS[there] < FLOORS[home], f"{me} imports {name}, which is not below it"
        allowed = ROOMS_OF.get(name.split(".")[0])
        assert allowed is None or me.startswith(allowed), f"{me} imports {name}, which belongs in {allowed}"


def test_every_floor_is_of_something():
    assert [name for name in FLOORS if name not in MODULES] == []


def test_eval_and_data_tools_are_imported_by_their_installed_names():
    """A user's own eval.py in the working folder would hide ours."""
    for me, names in IMPORTS.items():
        assert [name for name in names if name.split(".")[0] in ("eval", "data_tools")] == [], me


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of a circle in the order of their imports, [] if there is none."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for there in sorted(graph[path[-1]] - done):
            found = path[path.index(there) :] if there in path else follow([*path, there])
            if found:
                return found
        done.add(path[-1])
        return []

    return next((found for name in sorted(graph) if (found := follow([name]))), [])


def test_no_circle():
    found = circle(GRAPH)
    assert not found, f"a circle of imports: {' -> '.join([*found, found[0]])}"


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def f():\n    from mmclr.eval.suite import Suite", ["mmclr.eval.suite.Suite"]),
        ("if TYPE_CHECKING:\n    import mmclr.train.step", ["mmclr.train.step"]),
        ("importlib.import_module('mmclr.eval.commands.all')", ["mmclr.eval.commands.all"]),
        ("COMMANDS = {'train': ('mmclr.train.command:main', 'train')}", ["mmclr.train.command"]),
        ("say('mmclr.yaml and mmclr.train.run are words here')", []),
    ],
)
def test_what_counts_as_an_import(code, names):
    assert list(names_in(ast.parse(code))) == names


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c"]),
        ({"a": {"b", "d"}, "b": set(), "d": {"e"}, "e": {"a"}}, ["a", "d", "e"]),
    ],
)
def test_circles_of_any_length_are_found(graph, found):
    assert circle(graph) == found
