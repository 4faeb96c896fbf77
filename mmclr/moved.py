"""Find modules by the names that they had in version 0.1, with a DeprecationWarning: one table for all of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

TABLE = Path(__file__).with_name("moved.tsv")  # old name, new name


class _Moved:
    """A finder and loader: an old name gives the very module that has the new one."""

    def __init__(self) -> None:
        self.names = dict(line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines())
        # the others are classes and constants
        self.modules = {old for old in self.names if old.rpartition(".")[2].islower()}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for an old name, None for any other."""
        new = self.names.get(name) if name in self.modules else None
        if new is None or new.startswith(f"{name}."):  # a file that became a room: see `forward`
            return None
        return importlib.util.spec_from_loader(name, self, origin=new)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module with the new name."""
        _warn(spec.name, self.names[spec.name])
        module = importlib.import_module(self.names[spec.name])
        for old, new in self.names.items():  # what was in it and has another name or place
            if old.rpartition(".")[0] == spec.name and old not in self.modules:
                setattr(module, old.rpartition(".")[2], value(new))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, which the import of an old name has replaced; it has been run already."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


_FINDER = _Moved()


def install() -> None:
    """Let old names be imported."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forward(room: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for a room whose name was once that of a file: it finds what was in the file."""

    def find(name: str) -> Any:
        if name.startswith("__") or importlib.util.find_spec(f"{room}.{name}"):  # a file of the room comes by itself
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        new = _FINDER.names.get(f"{room}.{name}", f"{_FINDER.names[room]}.{name}")
        found = value(new)
        _warn(f"{room}.{name}", new)
        return found

    return find


def value(name: str) -> Any:
    """Return a class, function or constant by its full name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is {new} now; the old name goes with version 0.3", DeprecationWarning, stacklevel=3)
