"""Find the modules of a package and what each says of itself, without importing any: a file is enough to add one.

`mmclr eval NAME`, `mmclr data NAME` and `mmclr export NAME` are files that are found so. Modules whose name begins with
an underscore are no part of what is found.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

DOCSTRING = re.compile(r'\s*(?:#[^\n]*\s*)*[rR]?"""(?:[^"\\]|\\.|"(?!""))*"""', re.DOTALL)


def modules(package: str) -> dict[str, Path]:
    """Return the file of each module below `package`, in all of its folders, by the module's full name, sorted.

    Only the package itself is imported.
    """
    found = {}
    for folder in map(Path, importlib.import_module(package).__path__):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if not any(part.startswith("_") for part in parts):
                found[".".join([package, *parts])] = path
    return dict(sorted(found.items()))


def by_name(*packages: str) -> dict[str, str]:
    """Return the full name of each module below `packages` by the last word of it. Two of one name are a TypeError."""
    found: dict[str, str] = {}
    for package in packages:
        for module in modules(package):
            name = module.rpartition(".")[2]
            if name in found:
                raise TypeError(f"{found[name]} and {module} have one name; rename one of the files")
            found[name] = module
    return found


def first_line(module: str) -> str:
    """Return the first line of a module's docstring, without the full stop; "" where it has none.

    Packages above it are imported, the module is not.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    begin = DOCSTRING.match(
        Path(spec.origin).read_text(encoding="utf-8")
    )  # a whole file takes ast a hundred times as long
    text = ast.get_docstring(ast.parse(begin[0])) if begin else None
    return (text or "").partition("\n")[0].removesuffix(".")
