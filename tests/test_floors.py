"""A module imports only strictly lower floors, and some packages only in their own rooms."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "mmclr.cli": 6, "mmclr.demo": 6, "mmclr.compare": 6,
    "mmclr.export": 5, "mmclr.report": 5, "mmclr.papers": 5, "mmclr.doctor": 5, "eval": 5, "data_tools": 5,
    "mmclr.train": 4, "mmclr.encoder": 4,
    "mmclr.features": 3, "mmclr.trained": 3,
    "mmclr.losses": 2, "mmclr.models": 2, "mmclr.data": 2,
    "mmclr.heads": 1, "mmclr.draws": 1,
    "mmclr.vocabulary": 0, "mmclr.parallel": 0, "mmclr.config": 0,
    "mmclr.checkpoints": 0,
    "mmclr.errors": -1, "mmclr.heap": -1, "mmclr.files": -1, "mmclr.yaml_text": -1,  # the ground: for all
    "mmclr.console": -1, "mmclr.html": -1, "mmclr.output": -2, "mmclr.terminal": -2, "mmclr.secrets": -3,
    "mmclr.spinning": -3,
    "mmclr.written": 0, "mmclr.json_file": 0, "mmclr.manifest": -1,
}  # fmt: skip
ROOMS_OF = {
    "accelerate": ("mmclr.train", "mmclr.doctor"),
    "deepspeed": ("mmclr.train", "mmclr.doctor"),
    "webdataset": ("mmclr.data", "data_tools"),
    "open_clip": ("mmclr.models", "mmclr.data.text", "mmclr.export", "mmclr.doctor"),
    "transformers": ("mmclr.models", "mmclr.data.text", "mmclr.export", "mmclr.doctor"),
}
FILES = sorted(p for top in ("mmclr", "eval", "data_tools") for p in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str | None:
    """Return the entry of FLOORS that `name` lies in."""
    return max((key for key in FLOORS if name == key or name.startswith(key + ".")), key=len, default=None)


def imports(path: Path) -> list[str]:
    """Return the names of the modules that a file imports, those inside functions too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [b if room(b) or b.split(".")[0] in ROOMS_OF else node.module for b in below]
    return names


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_lower_floors(path):
    me = module_name(path)
    home = room(me)
    if home is None:
        assert me == "mmclr", f"{me} has no floor: give it one in FLOORS and in the house's plan"
        return
    for name in imports(path):
        there = room(name)
        if there and there != home:
            assert FLOORS[there] < FLOORS[home], f"{me} imports {name}, which is not below it"
        allowed = ROOMS_OF.get(name.split(".")[0])
        assert allowed is None or me.startswith(allowed), f"{me} imports {name}, which belongs in {allowed}"


def test_eval_is_imported_by_module():
    """`import eval` would hide the builtin."""
    for path in FILES:
        assert "eval" not in imports(path), f"{path}: write `from eval.x import y`"
