"""The member or field of the json that is likely meant by a name that no sample has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Fault
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.sources import Reader
from mmclr.errors import UserError

FACTS = 20  # samples whose json is looked into for what fields there are
SHOWN = 20  # names that are listed


def meant(name: str, indices: Sequence[ShardIndex], reader: Reader) -> str:
    """Return the end of a sentence about a field that is nowhere: the one that is meant, and all that there are."""
    members = sorted({extension for index in indices for extension in index.extensions})
    inside = [f"json:{path}" for path in _paths(_facts(indices, reader))]
    found = _nearest(name.strip(), members, inside)
    listed = f"; members: {_listed(members)}"
    if inside:
        listed += f"; fields of the json: {_listed([path.removeprefix('json:') for path in inside])}"
    return f"; {f'write {found}' if found else 'name one that is there'}{listed}"


def _nearest(name: str, members: Sequence[str], inside: Sequence[str]) -> str:
    """Return the member or field of the json whose name is, or is nearest to, what was asked for."""
    known = {each.lower(): each for each in [*members, *inside]}
    path = name.lower().removeprefix("json").strip(" :./$")  # json.title, json/title, $.title, .txt
    for same in (f"json:{path}", path):
        if same in known:
            return known[same]
    last = {each.rsplit(".", 1)[-1].lower().removeprefix("json:"): each for each in reversed(inside)}
    if path in last:  # it stands inside of an object
        return last[path]
    short = {each.removeprefix("json:"): each for each in reversed(list(known))}
    close = difflib.get_close_matches(path, short, n=1, cutoff=0.6)
    return known[short[close[0]]] if close else ""


def _facts(indices: Sequence[ShardIndex], reader: Reader) -> dict[str, Any]:
    """Return the fields of some samples' json, those of the first sample first."""
    found: dict[str, Any] = {}
    left = FACTS
    for index in indices[:FACTS]:
        for row in range(min(len(index), FACTS)):
            place = next(((at, size) for name, at, size in index.members(row) if name == "json"), None)
            if place is None or not left:
                continue
            left -= 1
            try:
                value = fields.tree(reader.read(index.url, *place), "json")
            except (Fault, OSError, UserError):
                continue
            found = {**value, **found} if isinstance(value, dict) else found
    return found


def _paths(facts: Mapping[str, Any], begin: str = "") -> list[str]:
    """Return the paths to the fields of an object that are no objects themselves."""
    out = []
    for name, value in facts.items():
        inner = _paths(value, f"{begin}{name}.") if isinstance(value, dict) and begin.count(".") < 3 else []
        out += inner or [f"{begin}{name}"]
    return out


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:60] for name in names[:SHOWN]) + more
