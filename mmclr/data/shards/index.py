"""The index of a shard: where each member of each sample lies, kept beside the shard and verified when it is used.

Members belong to a sample by their key, wherever in the shard they stand; the same member twice starts a second
sample. Keys are webdataset's: what stands before the first dot of the last part of a name. We differ from it in three
points: members of a sample need not be neighbours, a member twice is no error, and what is left out is counted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.data.shards import sidecar, sources, tar
from mmclr.data.shards.addresses import base, identity
from mmclr.data.shards.sidecar import Places
from mmclr.data.shards.streams import copy_stream
from mmclr.data.shards.tar_headers import BLOCK
from mmclr.errors import UserError

NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)  # webdataset's rule (base_plus_ext)
NOTE = re.compile(r"__[^/]*__($|/)")  # webdataset leaves these out (tar_file_iterator)
SCANS = 16  # shards scanned at the same time: remote ones wait for their server
EXTENSIONS = 4096  # told apart in a shard; more come from dots in keys
EXAMPLES = 20  # of members that are left out, kept for each reason
MAGIC = {  # of files that are no archive
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the file itself: git lfs pull",
    b"<!doctype html": "it is a web page, of an error perhaps; fetch the shard again",
    b"<html": "it is a web page, of an error perhaps; fetch the shard again",
    b"<?xml": "it is XML, of an error perhaps; fetch the shard again",
    b"\x89png": "it is an image; write shards from its folder first: mmclr data pack FOLDER OUT",
    b"\xff\xd8\xff": "it is an image; write shards from its folder first: mmclr data pack FOLDER OUT",
    b"par1": "it is a table; write shards from it first: mmclr data pack FILE.parquet OUT",
    b"7z\xbc\xaf": "it is compressed with 7z; unpack it first",
}
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}

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
        # members of no sample: reason (see the ledger), how many, (offset, name, what) of the first
        self.left_out: dict[str, tuple[int, list[tuple[int, str, str]]]] = {
            reason: (count, [(at, name, what) for at, name, what in first])
            for reason, (count, first) in json.loads(facts["left_out"]).items()
        }
        self.stat = sources.Stat(int(facts["size"]), facts["stamp"])

    def __len__(self) -> int:
        return self._length

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name; those of a damaged sidecar are made again."""
        if not isinstance(self._arrays, Path):
            return self._arrays
        try:
            return sidecar.mapped(self._arrays, self.stat)
        except sidecar.Damaged:
            again = build(self.url, self.stat, sources.Reader())
            if again._facts != self._facts:
                raise UserError(
                    f"{identity(self.url)}: its index tells of another shard; delete {self._arrays}"
                ) from None
            self._arrays = again.arrays
            return self._arrays

    @cached_property
    def fingerprint(self) -> str:
        """A hash of which members of which samples lie where: another shard has another, wherever it is stored."""
        digest = hashlib.sha256(json.dumps([self._length, self.extensions]).encode())
        arrays = self.arrays
        for name in ("first", "offset", "size", "extension", "key_end", "keys"):
            digest.update(np.ascontiguousarray(arrays[name]).data)
        return digest.hexdigest()[:32]

    @property
    def kind(self) -> NDArray[np.uint16]:
        """Return the number of each sample's kind: [n]."""
        return self.arrays["kind"]

    @property
    def truncated(self) -> bool:
        """Whether the shard ends before its archive does."""
        return any(what.startswith("truncated") for _, what in self.problems)

    def key(self, row: int, errors: str = "replace") -> str:
        """Return the key of a sample; `errors` "surrogateescape" keeps bytes that are no UTF-8."""
        arrays = self.arrays
        start = int(arrays["key_end"][row - 1]) if row else 0
        return arrays["keys"][start : int(arrays["key_end"][row])].tobytes().decode("utf-8", errors)

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
        sidecar.save(path, self.arrays, self._facts)


def open_index(url: str, reader: sources.Reader | None = None) -> ShardIndex:
    """Return the index of a shard: from its sidecar when that is still true, else by a scan that renews it.

    Raises UserError when the shard is not there, cannot be read, or is none.
    """
    if sources.is_stream(url):
        url = copy_stream(url)
    stat = sources.stat(url)
    places = Places(url)
    for path in places:
        facts = sidecar.load(path, places.name)
        if facts is not None and sources.Stat(int(facts["size"]), facts["stamp"]) == stat:
            return ShardIndex(url, facts, path)
    index = build(url, stat, reader or sources.Reader())
    kept = places.keep(index.save)
    return ShardIndex(url, index._facts, kept) if kept else index


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
            begin = b"" if scan.names else read(0, BLOCK)
    except IsADirectoryError:
        raise UserError(f"{url}: is a directory, no shard; {_inside(Path(sources.local(url)))}") from None
    except OSError as error:
        raise UserError(f"{identity(url)}: cannot be read: {sources.why(error)}") from error
    if not scan.names and not scan.left_out and scan.problems and stat.size and not scan.cut:
        raise UserError(f"{identity(url)}: not a tar file ({_what(url, begin, scan)})")
    return _group(url, stat, scan)


def _what(url: str, begin: bytes, scan: tar.Scan) -> str:
    """Say what a file is that is no shard, and what to do."""
    packed = next((name for magic, name in PACKED.items() if begin.startswith(magic)), "")
    if packed:
        tool = {"gzip": "gunzip", "zstd": "zstd -d", "bzip2": "bunzip2", "xz": "unxz", "zip": "unzip"}[packed]
        files = "; images in it that are in no shard: mmclr data pack FOLDER OUT" if packed == "zip" else ""
        return f"it is compressed with {packed}; unpack it first, {tool} {base(url)}: samples are read at places{files}"
    if url.lower().endswith((".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")):
        return f"it is a table; write shards from it first: mmclr data pack {url} OUT"
    known = next((what for magic, what in MAGIC.items() if begin.lower().startswith(magic)), "")
    return known or f"{scan.problems[0][1]}; shards are .tar files, as mmclr data pack writes them"


def _inside(folder: Path) -> str:
    """Say what to write in place of a folder."""
    for pattern in ("*.tar", "**/*.tar"):
        if next(folder.glob(pattern), None):
            return f"name the shards in it, '{folder}/{pattern}'"
    return f"no .tar is in it. Images, and tables of them, become shards with: mmclr data pack {folder} OUT"


def _group(url: str, stat: sources.Stat, scan: tar.Scan) -> ShardIndex:
    """Put the members of a scan together into samples, in the order in which the samples begin."""
    bits: dict[str, int] = {}  # of endings as written, one for each extension
    extensions: dict[str, int] = {}
    rows: dict[str, int] = {}  # the last sample of each key
    masks: list[int] = []  # which extensions a sample has, as bits
    keys: list[str] = []
    owner: list[int] = []  # the sample of each member, -1 for a file without a key
    extension: list[int] = []  # as a bit
    lost = _LeftOut(scan)
    last, row = None, -1
    for name in scan.names:
        key, dot, ending = name.partition(".")
        if key != last or "/" in ending:
            if "/" in ending or key[-1:] in ("", "/"):  # a dot in a folder's name, or no key before it
                match = NAME.match(name)
                key, dot, ending = (match[1], ".", match[2]) if match else ("", "", "")
            note = key[:2] == "__" or name[:2] == "__"
            if not dot or (note and NOTE.match(name)):
                lost.add("note" if note and NOTE.match(name) else "no_key", len(owner), name)
                owner.append(-1)
                extension.append(1)
                last = None
                continue
            last, row = key, rows.get(key, -1)
        bit = bits.get(ending)
        if bit is None:
            if len(extensions) >= EXTENSIONS and ending.lower() not in extensions:
                lost.add("dotted_key", len(owner), name)
                owner.append(-1)
                extension.append(1)
                continue
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
    numbers = {bit: number for number, bit in enumerate(extensions.values())}
    members = np.array(owner, np.int64), np.array([numbers.get(bit, 0) for bit in extension], np.int64)
    arrays, facts = _arrays(stat, scan, extensions, keys, masks, *members)
    return ShardIndex(url, {**facts, "name": sidecar.name_of(url), "left_out": json.dumps(lost.found)}, arrays)


class _LeftOut:
    """Counts the members that belong to no sample, by reason, with the first of them."""

    def __init__(self, scan: tar.Scan) -> None:
        self.scan = scan
        self.found: dict[str, tuple[int, list[tuple[int, str, str]]]] = {}
        for at, name, what in scan.left_out:
            self._count("no_file", at, name, f"it is {what}")

    def add(self, reason: str, member: int, name: str) -> None:
        """Count a file; folders of old archives are none."""
        if not (name.endswith("/") and not self.scan.size[member]):
            self._count(reason, int(self.scan.offset[member]) - BLOCK, name, "")

    def _count(self, reason: str, at: int, name: str, what: str) -> None:
        count, first = self.found.get(reason, (0, []))
        self.found[reason] = count + 1, [*first, (at, name[:300], what)] if len(first) < EXAMPLES else first


def _arrays(
    stat: sources.Stat,
    scan: tar.Scan,
    extensions: dict[str, int],
    keys: list[str],
    masks: list[int],
    owner: Ints,
    extension: Ints,
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    kinds = {mask: number for number, mask in enumerate(dict.fromkeys(masks))}
    kind = np.array([kinds[mask] for mask in masks], np.uint16 if len(kinds) < 1 << 16 else np.uint32)
    names = [[list(extensions)[number] for number in _bits(mask)] for mask in kinds]
    order = np.argsort(owner, kind="stable")[int((owner < 0).sum()) :]
    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    arrays: dict[str, NDArray[Any]] = {
        "first": np.concatenate([[0], np.cumsum(np.bincount(owner[order], minlength=len(keys)))]).astype(np.int64),
        "offset": scan.offset[order],
        "size": scan.size[order],
        "extension": extension[order].astype(np.uint16),
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


def _bits(mask: int) -> list[int]:
    return [number for number, bit in enumerate(reversed(bin(mask))) if bit == "1"]
