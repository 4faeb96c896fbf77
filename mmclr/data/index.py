"""The index of a shard: where each member of each sample lies, kept beside the shard and verified when it is used.

A sidecar `SHARD.index` is a safetensors file (arrays that are mapped into memory, and a few strings). Members
belong to a sample by their key, wherever in the shard they stand; the same member twice starts a second sample.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from mmclr.data import sources, tar
from mmclr.data.streams import copy_stream
from mmclr.errors import UserError

VERSION = "2"
NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's rule: the key ends at the first dot of the last part
MAPS = 16_384  # sidecars mapped at once; Linux allows a process 65,530 maps
SCANS = 16  # shards scanned at the same time: remote ones wait for their server

Ints = NDArray[np.int64]


class ShardIndex:
    """The samples of one shard. `extensions` are numbered; a sample's kind says which of them it has.

    Its arrays, for n samples with m members: first [n + 1] (members of sample r: first[r] to first[r + 1]), offset and
    size [m], extension [m], kind [n], key_end [n] and keys (bytes). They are mapped from the sidecar when needed.
    """

    def __init__(self, url: str, facts: dict[str, str], arrays: dict[str, NDArray[Any]] | Path) -> None:
        self.url = url
        self._arrays = arrays
        self._facts = facts
        self._length = int(facts["samples"])
        self.extensions: list[str] = json.loads(facts["extensions"])
        self.kinds: list[frozenset[str]] = [frozenset(kind) for kind in json.loads(facts["kinds"])]
        self.kind_counts: list[int] = json.loads(facts["kind_counts"])
        self.problems: list[tuple[int, str]] = [(at, what) for at, what in json.loads(facts["problems"])]
        self.stat = sources.Stat(int(facts["size"]), facts["stamp"])

    def __len__(self) -> int:
        return self._length

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return _mapped(self._arrays, self.stat) if isinstance(self._arrays, Path) else self._arrays

    @property
    def kind(self) -> NDArray[np.uint16]:
        """Return the number of each sample's kind: [n]."""
        return self.arrays["kind"]

    @property
    def truncated(self) -> bool:
        """Whether the shard ends before its archive does."""
        return any(what.startswith("truncated") for _, what in self.problems)

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        arrays = self.arrays
        start = int(arrays["key_end"][row - 1]) if row else 0
        return arrays["keys"][start : int(arrays["key_end"][row])].tobytes().decode("utf-8", "replace")

    def keys(self) -> list[str]:
        """Return the keys of all samples."""
        return [self.key(row) for row in range(len(self))]

    def members(self, row: int) -> list[tuple[str, int, int]]:
        """Return (extension, offset, size) of each member of a sample."""
        arrays = self.arrays
        part = slice(int(arrays["first"][row]), int(arrays["first"][row + 1]))
        names = [self.extensions[number] for number in arrays["extension"][part].tolist()]
        return list(zip(names, arrays["offset"][part].tolist(), arrays["size"][part].tolist()))

    def save(self, path: Path) -> None:
        """Write the sidecar; a reader sees the whole of it or none."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(save(self.arrays, {**self._facts, "version": VERSION}))
        os.replace(temporary, path)


def open_index(url: str, reader: sources.Reader | None = None) -> ShardIndex:
    """Return the index of a shard: from its sidecar when that is still true, else by a scan that renews it."""
    if sources.is_stream(url):
        url = copy_stream(url)
    stat = sources.stat(url)
    for path in _places(url):
        index = _load(url, path)
        if index is not None and index.stat == stat:
            return index
    index = build(url, stat, reader or sources.Reader())
    for path in _places(url):
        if not _replaceable(path):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            index.save(path)
            return _load(url, path) or index
        except OSError:
            continue  # a folder that is read-only: the next place
    return index


def open_indices(urls: Sequence[str], reader: sources.Reader | None = None) -> list[ShardIndex]:
    """Return the indices of shards, in their order."""
    reader = reader or sources.Reader()
    if len(urls) == 1:
        return [open_index(urls[0], reader)]
    with ThreadPoolExecutor(SCANS if any(map(sources.is_remote, urls)) else 2) as pool:
        return list(pool.map(lambda url: open_index(url, reader), urls))


def build(url: str, stat: sources.Stat, reader: sources.Reader) -> ShardIndex:
    """Scan a shard. Raises UserError when it cannot be read."""
    try:
        with reader.opened(url) as read:
            scan = tar.scan(read, stat.size)
    except OSError as error:
        raise UserError(f"{url}: cannot be read: {error}") from error
    if not scan.names and scan.problems and stat.size and not scan.cut:
        raise UserError(f"{url}: not a tar file ({scan.problems[0][1]})")
    return _group(url, stat, scan)


def _group(url: str, stat: sources.Stat, scan: tar.Scan) -> ShardIndex:
    """Put the members of a scan together into samples, in the order in which the samples begin."""
    bits: dict[str, int] = {}  # of endings as written, one for each extension
    extensions: dict[str, int] = {}
    rows: dict[str, int] = {}  # the last sample of each key
    masks: list[int] = []  # which extensions a sample has, as bits
    keys: list[str] = []
    owner: list[int] = []  # the sample of each member, -1 for a file without a key
    extension: list[int] = []  # as a bit
    last, row = None, -1
    for name in scan.names:
        key, dot, ending = name.partition(".")
        if key != last or "/" in ending:
            if "/" in ending or key[-1:] in ("", "/"):  # a dot in a folder's name, or no key before it
                match = NAME.match(name)
                key, dot, ending = (match[1], ".", match[2]) if match else ("", "", "")
            if not dot or key.startswith("__"):  # no key; webdataset's notes about the shard
                owner.append(-1)
                extension.append(1)
                continue
            last, row = key, rows.get(key, -1)
        bit = bits.get(ending)
        if bit is None:
            bit = bits[ending] = extensions.setdefault(ending.lower(), 1 << len(extensions))
        if row < 0 or masks[row] & bit:
            row = rows[key] = len(keys)
            keys.append(key)
            masks.append(bit)
        else:
            masks[row] |= bit
        owner.append(row)
        extension.append(bit)
    if scan.cut and (match := NAME.match(scan.cut)) and match[1] not in rows:
        keys.append(match[1])  # so that the sample is counted, although nothing of it is left
        masks.append(0)
    if len(extensions) > 62:
        raise UserError(f"{url}: {len(extensions)} different extensions: are there dots in the keys of its samples?")
    members = np.array(owner, np.int64), np.array(extension, np.int64)
    arrays, facts = _arrays(stat, scan, extensions, keys, masks, *members)
    return ShardIndex(url, facts, arrays)


def _arrays(
    stat: sources.Stat,
    scan: tar.Scan,
    extensions: dict[str, int],
    keys: list[str],
    masks: list[int],
    owner: Ints,
    bit: Ints,
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    kinds = {mask: number for number, mask in enumerate(dict.fromkeys(masks))}
    kind = np.array([kinds[mask] for mask in masks], np.uint16)
    names = [[name for name, bit in extensions.items() if mask & bit] for mask in kinds]
    order = np.argsort(owner, kind="stable")[int((owner < 0).sum()) :]
    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    arrays: dict[str, NDArray[Any]] = {
        "first": np.concatenate([[0], np.cumsum(np.bincount(owner[order], minlength=len(keys)))]).astype(np.int64),
        "offset": scan.offset[order],
        "size": scan.size[order],
        "extension": np.log2(bit[order]).astype(np.uint16),
        "kind": kind,
        "key_end": np.cumsum([len(key) for key in encoded], dtype=np.int64),
        "keys": np.frombuffer(b"".join(encoded), np.uint8),
    }
    facts = {
        "samples": str(len(keys)),
        "size": str(stat.size),
        "stamp": stat.stamp,
        "extensions": json.dumps(list(extensions)),
        "kinds": json.dumps(names),
        "kind_counts": json.dumps(np.bincount(kind, minlength=len(names)).tolist()),
        "problems": json.dumps(scan.problems),
    }
    return arrays, facts


def _places(url: str) -> list[Path]:
    """Return where the sidecar of a shard may be: beside it, or in the user's cache folder."""
    cache = sources.cache_folder() / "index"
    if sources.is_remote(url):
        return [cache / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.index"]
    path = Path(sources.local(url)).resolve()
    hidden = cache / f"{hashlib.sha256(bytes(path)).hexdigest()[:32]}.index"
    read_only = not path.parent.stat().st_mode & 0o222  # which root could write to all the same
    return [hidden] if read_only else [path.with_name(path.name + ".index"), hidden]


_DTYPES = {"I64": np.int64, "U16": np.uint16, "U8": np.uint8}


def _load(url: str, path: Path) -> ShardIndex | None:
    """Open a sidecar; None when there is none or it is not one of this version."""
    try:
        with open(path, "rb") as file:
            facts = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
        return ShardIndex(url, facts, path) if facts.get("version") == VERSION else None
    except (OSError, ValueError, KeyError, OverflowError, MemoryError):
        return None  # not there, or half a file of another program: it is made again


def _replaceable(path: Path) -> bool:
    """Whether there is no file, or a sidecar of ours, whole or not, and of any version: other tools use the ending."""
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not path.is_symlink() and start[8:].startswith(b'{"__metadata__":{"') and b'"stamp":"' in start


@functools.lru_cache(MAPS)
def _mapped(path: Path, stat: sources.Stat) -> dict[str, NDArray[Any]]:
    """Map the arrays of a sidecar into memory, which all workers share. No file stays open."""
    view = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
    start = 8 + int.from_bytes(view[:8].tobytes(), "little")
    header = json.loads(view[8:start].tobytes())
    facts = header.pop("__metadata__")
    if sources.Stat(int(facts["size"]), facts["stamp"]) != stat:
        raise UserError(f"{path}: its shard has changed while it was used; start again")
    return {
        name: view[start + spec["data_offsets"][0] : start + spec["data_offsets"][1]].view(_DTYPES[spec["dtype"]])
        for name, spec in header.items()
    }
