"""The columns of one shard: where their files are, how one is written, and whether one still belongs to its shard.

The column NAME of SHARD is SHARD.NAME.arrow beside it when the shard is local and its folder can be written, else a
file in the user's cache folder; FOLDER/NAME means FOLDER/SHARD.NAME.arrow.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from mmclr.data.columns import file
from mmclr.data.columns.kind import Kind
from mmclr.data.shards import cache, sources
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.sidecar import name_of
from mmclr.errors import UserError
from mmclr.storage import written

BY = "column of a shard"
ENDING = ".arrow"
NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
IN_MEMORY = 1 << 26  # bytes of a column that are put together in memory; a larger one in a file without a name
AGAIN = "make it anew, or take it over by key from the shards that have it: mmclr data columns export, then import"


class Found(NamedTuple):
    """A column of a shard: its file, its kind, what its maker said of it, and why it cannot be used, if it cannot."""

    name: str
    path: Path
    kind: Kind | None
    facts: dict[str, Any]
    fault: str = ""


def places(url: str, name: str) -> list[Path]:
    """Return where the column of a shard may be, the best first. Raises UserError for a name that is none."""
    folder, _, plain = name.rpartition("/")
    if not NAME.fullmatch(plain):
        raise UserError(f"{name!r}: a column's name has letters, digits, '_', '-' and '.', and at most 100 of them")
    if folder:
        return [Path(folder) / f"{name_of(url)}.{plain}{ENDING}"]
    hidden = _hidden(url)
    return [
        *([_beside(url, plain)] if _is_open(url) else []),
        *([hidden / f"{plain}{ENDING}"] if hidden else []),
    ]


def check(indices: Sequence[ShardIndex], name: str) -> None:
    """Raise UserError where a column of these shards could not be written."""
    paths: dict[Path, str] = {}
    for index in indices:
        for path in places(index.url, name)[:1]:
            if path in paths:
                raise UserError(
                    f"{path.parent}: several shards have the same name ({identity(index.url)} and {paths[path]}); "
                    "their columns need folders of their own"
                )
            paths[path] = identity(index.url)
            written.check(path, BY, _ours)


def find(index: ShardIndex, name: str) -> Found | None:
    """Return a shard's column as its first bytes tell, usable or not; of two places the one where it is usable.

    None where there is none.
    """
    candidates = places(index.url, name)
    if "/" not in name and not sources.is_remote(index.url):
        candidates = [*dict.fromkeys([_beside(index.url, name), *candidates])]  # of a folder that is read-only now
    there = [_look(index, name, path) for path in candidates if path.is_file()]
    return next((found for found in there if not found.fault), there[0] if there else None)


def look(index: ShardIndex, name: str) -> Found:
    """Return a shard's column as its first bytes tell. Raises UserError where it is not there, or of another shard."""
    found = find(index, name)
    if found is None:
        raise UserError(f"{identity(index.url)}: there is no column {name} of this shard; {AGAIN}")
    if found.fault:
        raise UserError(f"{found.path}: the column {name} of {identity(index.url)} {found.fault}; {AGAIN}")
    return found


def holds(index: ShardIndex, name: str, facts: Mapping[str, Any] | None = None) -> bool:
    """Whether a shard has a column that belongs to it and, where `facts` are given, was made with these.

    A tool that was ended goes on where it was: it passes over the shards whose column holds.
    """
    found = find(index, name)
    return found is not None and not found.fault and (facts is None or found.facts == dict(facts))


def refuse_others(index: ShardIndex, name: str, facts: Mapping[str, Any]) -> None:
    """Raise UserError where a column that belongs to the shard was made with other facts."""
    if holds(index, name) and not holds(index, name, facts):
        raise UserError(
            f"{look(index, name).path}: the column {name} of {identity(index.url)} was made by another model, or is "
            "something else; give this one another name, or remove that"
        )


def open_column(index: ShardIndex, name: str) -> tuple[Found, file.Values]:
    """Return a shard's column and its values, mapped: [samples], [samples, width], or an Arrow array of texts.

    Raises UserError where the column is not there, is damaged, or belongs to another shard.
    """
    found = look(index, name)
    try:
        return found, file.load(found.path).arrays["value"]
    except (file.Damaged, FileNotFoundError) as error:
        raise UserError(
            f"{found.path}: the column {name} of {identity(index.url)} is damaged ({error}); {AGAIN}"
        ) from None


def listing(index: ShardIndex, folder: str = "") -> list[Found]:
    """Return the columns of a shard by name, in `folder` instead of beside it and in the cache, usable or not."""
    start = f"{name_of(index.url)}."
    names: dict[str, None] = {}
    if folder or not sources.is_remote(index.url):
        here = Path(folder) if folder else _beside(index.url, "x").parent
        found = [p.name for p in here.iterdir() if p.name.startswith(start)] if here.is_dir() else []
        names |= {n[len(start) : -len(ENDING)]: None for n in found if n.endswith(ENDING)}
    hidden = None if folder else _hidden(index.url)
    if hidden and hidden.is_dir():
        names |= {path.name[: -len(ENDING)]: None for path in hidden.glob(f"*{ENDING}")}
    full = {name: f"{folder}/{name}" if folder else name for name in sorted(names) if NAME.fullmatch(name)}
    return [each._replace(name=name) for name, place in full.items() if (each := find(index, place))]


class Writer:
    """The values of one shard's column as they come; what is not put is missing."""

    def __init__(self, rows: int, kind: Kind, folder: str | None) -> None:
        self.kind = kind
        size = rows * max(kind.width, 1) * (np.dtype(kind.dtype).itemsize if kind.dtype != "string" else 0)
        if size <= IN_MEMORY:
            self.values = kind.empty(rows)
            return
        with tempfile.TemporaryFile(dir=folder) as scratch:  # without a name: the mapping alone keeps it
            scratch.truncate(size)
            self.values = np.memmap(scratch, kind.dtype, "r+", shape=kind.shape(rows))
        self.values[:] = kind.missing

    def put(self, rows: ArrayLike, values: ArrayLike) -> None:
        """Set the values [n], or [n, width], of rows [n] of the shard, in any order; the last of a row counts."""
        at, new = np.asarray(rows, np.int64), np.asarray(values)
        shape = self.kind.shape(len(at))
        if new.shape != shape:
            raise ValueError(f"{len(at)} values of {self.kind} are an array of shape {shape}, not {new.shape}")
        if len(at) and not 0 <= at.min() <= at.max() < len(self.values):
            raise ValueError(f"rows are 0 to {len(self.values) - 1}, not {at.min()} to {at.max()}")
        self.values[at] = self.kind.cast(new)


@contextlib.contextmanager
def write(index: ShardIndex, name: str, kind: Kind, facts: Mapping[str, Any] | None = None) -> Iterator[Writer]:
    """Give a writer for the column of a shard; the file is there when the block ends, and not if something is raised.

    `facts` (JSON) say how the values were made: a model and a transform, a number of clusters. Raises UserError where
    the file cannot be written, or a file of somebody else stands there.
    """
    if not kind.possible:
        raise ValueError(f"{kind} is no kind of value that a column may hold")
    options = places(index.url, name)
    folder = next((str(path.parent) for path in options if os.access(path.parent, os.W_OK)), None)
    writer = Writer(len(index), kind, folder)
    yield writer
    values: file.Values = writer.values
    if kind.dtype == "string":
        values = pa.array(writer.values.tolist(), pa.large_string())
    told = {"column": name.rpartition("/")[2], "shard": name_of(index.url), "index": index.fingerprint}
    _keep(options, {"value": values}, {**told, "made": dict(facts or {})}, f"{identity(index.url)}, column {name}")


def _keep(options: Sequence[Path], arrays: Mapping[str, file.Values], facts: dict[str, Any], what: str) -> None:
    """Write a file to the first place that takes it."""
    why = "there is no home and no XDG_CACHE_HOME"
    for path in options:
        try:
            with written.staged(path, BY, _ours) as partial, open(partial, "wb") as target:
                file.save(target, arrays, facts)
            return
        except OSError as error:  # a folder that is read-only, a disk that is full: the next place
            why = f"{path}: {sources.why(error)}"
    raise UserError(f"{what}: cannot be written ({why}); name a folder for it, FOLDER/NAME")


def _look(index: ShardIndex, name: str, path: Path) -> Found:
    plain = name.rpartition("/")[2]
    try:
        facts, kinds, rows = file.head(path)
        kind = Kind(*kinds["value"])
        made = facts["made"]
        if set(kinds) != {"value"} or not kind.possible or not isinstance(made, dict):
            raise file.Damaged("it is no column")
    except (file.Damaged, OSError, KeyError, TypeError) as error:
        return Found(name, path, None, {}, f"is damaged ({error})")
    fault = ""
    if facts.get("column") != plain:
        fault = f"was written as {facts.get('column')!r}"
    elif rows != len(index):
        fault = f"has values of {rows} samples, the shard has {len(index)}"
    elif facts.get("index") != index.fingerprint:
        fault = f"was made for another shard, or for this one before it was changed ({facts.get('shard')})"
    return Found(name, path, kind, made, fault)


def _beside(url: str, name: str) -> Path:
    path = Path(sources.local(url)).resolve()
    return path.with_name(f"{path.name}.{name}{ENDING}")


def _is_open(url: str) -> bool:
    """Whether a column may lie beside a shard: root could write to a read-only folder all the same."""
    return not sources.is_remote(url) and bool(_beside(url, "x").parent.stat().st_mode & 0o222)


def _hidden(url: str) -> Path | None:
    """Return the folder in the user's cache that holds the columns of a shard."""
    folder = cache.cache_folder()
    of = identity(url) if sources.is_remote(url) else str(Path(sources.local(url)).resolve())
    digest = hashlib.sha256(of.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return folder / "columns" / digest if folder else None


def _ours(start: bytes) -> bool:
    """Whether a file that no manifest has is a column: shards are copied with what lies beside them."""
    return start.startswith(file.KNOWN) and b"mmclr.sum" in start
