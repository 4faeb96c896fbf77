"""Commands that realise a paper: tools for data and evaluations whose module says so, read without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

from mmclr import discovery
from mmclr.papers.entry import ROOT, Entry, paper, parse

# room of the catalogue: the package below which its modules are found, and the command that runs one
ROOMS = {
    "tools": ("mmclr.data_tools.commands", "mmclr data {name} --help"),
    "suites": ("mmclr.eval.suites", "mmclr eval {name} --help"),
}
LAW = "Reduces to:"  # in the docstring of what realises a paper


def entries() -> list[Entry]:
    """Return the entries of all modules whose docstring keeps the law."""
    found = []
    for room, (package, command) in ROOMS.items():
        for module, path in discovery.modules(package).items():
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if LAW in docstring:
                name = module.rpartition(".")[2].replace("_", "-" if room == "tools" else "_")
                found.append(_entry(docstring, name, room, path, command.format(name=name)))
    return found


def _entry(docstring: str, key: str, room: str, path: Path, command: str) -> Entry:
    told = parse(docstring)
    file = str(path.resolve().relative_to(ROOT)) if path.resolve().is_relative_to(ROOT) else str(path)
    named = paper(key, told["arxiv"])
    told |= {"key": key, "paper": named, "room": room, "file": file, "cost": "", "config": command, "above": ()}
    return Entry(needs=[], state=[], fields=[], presets=[], **told)
