"""Sidecars: the index of a shard as a safetensors file beside it, or in the user's cache folder.

A sidecar is whole or absent (flushed, then renamed), carries checksums of all that it says, and the name of its shard.
One that is damaged, older, or of another shard is made again; a file of that name that is not ours is left alone.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes

from mmclr.data.samples.skipped import REASONS
from mmclr.data.shards import cache, sources
from mmclr.data.shards.addresses import base, identity
from mmclr.errors import UserError, note
from mmclr.storage.whole_file import whole

VERSION = "3"
MAPS = 16_384  # sidecars mapped at once; Linux allows a process 65,530 maps
LONGEST = 1 << 24  # bytes of a header; what is longer is scanned again at every start
DTYPES = {"I64": np.int64, "U16": np.uint16, "U32": np.uint32, "U8": np.uint8}
MARKS = (b'"key_end"', b'"kind_counts"', b'"extensions')  # in what we write

Arrays = dict[str, NDArray[Any]]


class Damaged(Exception):
    """A sidecar is not what was written."""


def name_of(url: str) -> str:
    """Return the name that the sidecar of a shard knows it by."""
    return base(url) if sources.is_remote(url) else Path(sources.local(url)).resolve().name


class Places:
    """The places of a shard's sidecar: beside it, or in the user's cache folder. `name` is that of the shard."""

    def __init__(self, url: str) -> None:
        folder = cache.cache_folder()
        hidden = folder / "index" if folder else None
        remote = sources.is_remote(url)
        path = Path(sources.local(url)).resolve()
        self.name = name_of(url)
        self.paths: list[Path] = []
        if not remote and path.parent.stat().st_mode & 0o222:  # root could write to a read-only one all the same
            self.paths.append(path.with_name(path.name + ".index"))
        if hidden:
            of = identity(url).encode("utf-8", "surrogateescape") if remote else bytes(path)
            self.paths.append(hidden / f"{hashlib.sha256(of).hexdigest()[:32]}.index")

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def keep(self, save: Callable[[Path], None]) -> Path | None:
        """Write a sidecar to the first place that takes it; say so once when none does."""
        why = "there is no home and no XDG_CACHE_HOME"
        for path in self.paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if not _ours(path):
                    why = f"{path} is not mmclr's"
                    continue
                save(path)
                return path
            except OSError as error:  # a folder that is read-only, a disk that is full: the next place
                why = f"{path}: {sources.why(error)}"
        note(f"indices of shards cannot be kept ({why}): shards are scanned again at every start", about="index")
        return None


def save(path: Path, arrays: Arrays, facts: dict[str, str]) -> None:
    """Write a sidecar; a reader sees the whole of it or none. Raises OSError."""
    sums = json.dumps({name: zlib.crc32(array.tobytes()) for name, array in arrays.items()})
    told = {**facts, "arrays": sums, "version": VERSION}
    with whole(path) as file:
        file.write(to_bytes(arrays, {**told, "facts": str(_sum(told))}))


def load(path: Path, name: str) -> dict[str, str] | None:
    """Return what the sidecar at `path` of the shard `name` says; None when it is none of this version, or damaged."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST:
                return None
            header = json.loads(file.read(length))
            size = file.seek(0, 2)
        facts = dict(header.pop("__metadata__"))
        told = int(facts.pop("facts"))
        end = max(spec["data_offsets"][1] for spec in header.values())
        whole = facts["version"] == VERSION and told == _sum(facts) and size == 8 + length + end
        del facts["version"], facts["arrays"]
        return facts if whole and facts["name"] == name and _sensible(facts) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, MemoryError):
        return None  # not there, or half a file of another program: it is made again
    except RecursionError:
        return None


def mapped(path: Path, stat: Any) -> Arrays:
    """Map the arrays of a sidecar into memory, which all workers share. No file stays open. Raises Damaged."""
    try:
        status = path.stat()
    except OSError as error:
        raise Damaged(str(path)) from error
    file = status.st_ino, status.st_size, status.st_mtime_ns
    kept = _maps.get(path)
    if kept is None or kept[0] != (stat, file):  # of a path that is written anew, the old one is let go
        while len(_maps) >= MAPS:
            _maps.pop(next(iter(_maps)), None)
        kept = _maps[path] = (stat, file), _mapped(path, stat, file)
    return kept[1]


_maps: dict[Path, tuple[Any, Arrays]] = {}


def _mapped(path: Path, stat: Any, file: tuple[int, int, int]) -> Arrays:
    try:
        view = torch.from_file(str(path), shared=False, size=file[1], dtype=torch.uint8).numpy()
        start = 8 + int.from_bytes(view[:8].tobytes(), "little")
        header = json.loads(view[8:start].tobytes())
        facts = header.pop("__metadata__")
        arrays = {
            name: view[start + spec["data_offsets"][0] : start + spec["data_offsets"][1]].view(DTYPES[spec["dtype"]])
            for name, spec in header.items()
        }
        now = sources.Stat(int(facts["size"]), facts["stamp"])
        right = {name: zlib.crc32(array.data) for name, array in arrays.items()} == json.loads(facts["arrays"])
        sound = right and _possible(arrays, facts)
    except Exception as error:  # whatever a damaged header makes of this
        raise Damaged(str(path)) from error
    if now != stat:
        raise UserError(f"{path}: its shard has changed while it was used; start again")
    if not sound:
        raise Damaged(str(path))
    return arrays


def _possible(arrays: Arrays, facts: dict[str, str]) -> bool:
    """Whether arrays can be an index: a sidecar beside a stranger's shard may say anything."""
    first, offset, size, extension, kind, end = (
        arrays[name] for name in ("first", "offset", "size", "extension", "kind", "key_end")
    )
    n, m = int(facts["samples"]), len(offset)
    lengths = len(first) == n + 1 and len(kind) == len(end) == n and len(size) == len(extension) == m
    return bool(
        lengths
        and first[0] == 0
        and first[-1] == m
        and (np.diff(first) >= 0).all()
        and (np.diff(end, prepend=0) >= 0).all()
        and (not n or end[-1] == len(arrays["keys"]))
        and (not m or (offset.min() >= 0 and size.min() >= 0 and (offset <= int(facts["size"]) - size).all()))
        and (not m or extension.max() < len(json.loads(facts["extensions"])))
        and (not n or kind.max() < len(json.loads(facts["kinds"])))
    )


def _sensible(facts: dict[str, str]) -> bool:
    """Whether facts are of the types that we write: a sidecar beside a stranger's shard may say anything."""
    names = ("extensions", "kinds", "kind_counts", "problems", "left_out")
    extensions, kinds, counts, problems, left_out = (json.loads(facts[name]) for name in names)
    examples = [entry for _, first in left_out.values() for entry in first]
    text = [*extensions, *(each for kind in kinds for each in kind), *(what for _, what in problems)]
    text += [facts["stamp"], *(name for _, name, _ in examples), *(what for _, _, what in examples)]
    whole = [int(facts["samples"]), int(facts["size"]), *counts, *(at for at, _ in problems)]
    whole += [*(count for count, _ in left_out.values()), *(at for at, _, _ in examples)]
    return bool(
        all(isinstance(each, list) for each in (extensions, kinds, counts, problems, *kinds))
        and all(isinstance(each, str) for each in text)
        and all(isinstance(each, int) and each >= 0 for each in whole)
        and len(counts) == len(kinds)
        and set(left_out) <= set(REASONS)
    )


def _sum(facts: dict[str, str]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _ours(path: Path) -> bool:
    """Whether a sidecar may be written there: nothing, an empty or zeroed file, or one that mmclr wrote."""
    try:
        with open(path, "rb") as file:
            begin = file.read(1 << 20)
    except FileNotFoundError:
        return True
    return not path.is_symlink() and (not begin.strip(b"\0") or any(mark in begin for mark in MARKS))
