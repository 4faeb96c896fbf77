"""Find the modules of a package and what each says of itself, importing nothing: a file is enough to add one.

`mmclr eval NAME`, `mmclr data NAME` and `mmclr export NAME` are files that are found so. Modules whose name begins with
an underscore are no part of what is found.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

DOCSTRING = re.compile(r'\s*(?:#[^\n]*\s*)*[rR]?"""(?:[^"\\]|\\.|"(?!""))*"""', re.DOTALL)


def modules(package: str) -> dict[str, Path]:
    """Return the file of each module below `package`, in all of its folders, by the module's full name, sorted."""
    found = {}
    for folder in map(Path, _locate(package)[1]):
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
    """Return the first line of a module's docstring, without the full stop; "" where it has none."""
    file, _ = _locate(module)
    if file is None:
        return ""
    begin = DOCSTRING.match(Path(file).read_text(encoding="utf-8"))  # ast takes a hundred times as long for all of it
    text = ast.get_docstring(ast.parse(begin[0])) if begin else None
    return (text or "").partition("\n")[0].removesuffix(".")


def _locate(name: str) -> tuple[str | None, Iterable[str]]:
    """Return a module's file and, of a package, its folders. The packages above it are not imported either."""
    file, folders, whole = None, None, ""
    for word in name.split("."):
        whole = f"{whole}.{word}".lstrip(".")
        if (loaded := sys.modules.get(whole)) is not None:  # as it is now: it may have gained folders
            file, folders = getattr(loaded, "__file__", None), getattr(loaded, "__path__", [])
            continue
        specs = (finder.find_spec(whole, folders) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next(filter(None, specs), None)
        if spec is None:
            return None, []
        file, folders = spec.origin, spec.submodule_search_locations or []
    return file, folders or []
