"""Parts of plugins of those kinds that have no entries of their own: providers, towers, suites, commands, others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmclr import plugins, scorers
from mmclr.data.stream import order
from mmclr.eval import suites
from mmclr.features import provider
from mmclr.models.foreign import libraries
from mmclr.papers.entry import Entry, paper, parse


def entries() -> list[Entry]:
    """Return an entry of each, told by the first words of its docstring; ours are left out."""
    every = ((room, config, key, part) for room, config, parts in _kinds() for key, part in parts.items())
    return [_entry(*one) for one in every if plugins.origin(one[-1])]


def _kinds() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield room, what to write, and the parts by key."""
    suites.names()  # loads what is installed, and refuses what has a name of ours
    libraries.names()
    yield "providers", "providers: {{{key}: {{}}}}", provider.catalogue()
    yield "orders", "data: {{order: {key}}}", {k: v for k, v in order.catalogue().items() if not v.paper}
    yield "scorers", "mmclr data score SHARDS {key}", {k: v for k, v in scorers.catalogue().items() if not v.paper}
    yield "libraries", "model: {{image: {{foreign: {{source: '{key}:FOLDER_OR_NAME'}}}}}}", libraries.ADDED
    yield "commands", "mmclr {key} --help", plugins.COMMANDS  # those of suites among them


def _entry(room: str, config: str, key: str, part: Any) -> Entry:
    told = parse(inspect.getdoc(part) or "") | {"title": plugins.about(part)}
    named = paper(key, told["arxiv"]) if told["reduces"] else ""
    where = plugins.origin(part)
    told |= {"key": key, "paper": named, "room": room, "config": config.format(key=key), "origin": where, "file": where}
    return Entry(needs=[], state=[], fields=[], presets=[], cost="", above=(), **told)
