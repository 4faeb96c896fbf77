"""Libraries whose towers can stand in place of ours: one module each, found by its file, called as in a source.

Such a module has `describe(part, folder)`, the tree of an ImageConfig or TextConfig for the tower in a folder;
`Image(config)` and `Text(config)`, towers with random weights; and `fill_tower(part, tower, folder)`. Its name stands
before the colon in `foreign: {source: NAME:FOLDER_OR_NAME}`. A plugin adds one with `register`,
and is given what stands behind the colon as it is.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from mmclr import plugins
from mmclr.discovery import by_name
from mmclr.errors import UserError

ADDED: dict[str, ModuleType] = {}  # by plugins


def names() -> list[str]:
    """Return the libraries that there are."""
    plugins.load_installed()
    return [*by_name(__name__), *ADDED]


def library(name: str) -> Any:
    """Return the module of a library, imported now."""
    return ADDED[name] if name in ADDED else importlib.import_module(f"{__name__}.{name}")


def register(name: str, module: ModuleType) -> None:
    """Add a library of towers from outside of the repository. Raises UserError where the name is another's."""
    if name in by_name(__name__):
        where = plugins.origin(module)
        raise UserError(f"the library of towers {name!r} is one of mmclr's own; {where} needs another name")
    plugins.register("library of towers", ADDED, name, module)
