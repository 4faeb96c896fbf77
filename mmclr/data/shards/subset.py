"""DataComp's subset files: which samples of a pool are wanted, by their 128-bit uids.

A subset file is a .npy, or the same numbers without its header, of dtype (uint64, uint64): the two halves of each
uid (S. Gadre et al., DataComp, NeurIPS 2023, arXiv 2304.14108; resharder.py). The order of the uids does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.data.samples.fields import JSON_BYTES, find, tree
from mmclr.data.samples.skipped import Fault
from mmclr.data.shards import cache
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.sources import Reader
from mmclr.errors import UserError
from mmclr.storage.whole_file import whole

UID = np.dtype("u8,u8")


def read_subset(path: str | Path) -> NDArray[Any]:
    """Return the uids of a subset file, sorted, each once. Raises UserError when it is none."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            npy = file.read(6) == b"\x93NUMPY"
        uids = np.load(path, mmap_mode="r") if npy else np.memmap(path, UID, "r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a subset file: {error}") from error
    if uids.dtype != UID or uids.ndim != 1:
        raise UserError(f"{path}: a subset file holds one row of u8,u8 uids, not {uids.dtype} of shape {uids.shape}")
    return np.unique(uids)


def write_subset(path: str | Path, uids: Sequence[str]) -> None:
    """Write uids (32 hexadecimal digits each) as a sorted subset file."""
    np.save(path, np.unique(parse_uids(uids)))


def parse_uids(uids: Sequence[str]) -> NDArray[Any]:
    """Return uids of 32 hexadecimal digits as numbers. Raises UserError."""
    try:
        return np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], UID)
    except ValueError:
        bad = next(uid for uid in uids if not _is_uid(uid))
        raise UserError(f"{bad!r} is not a uid of 32 hexadecimal digits") from None


def contains(subset: NDArray[Any], uids: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which uids are in a sorted subset: [n]."""
    if not len(subset):
        return np.zeros(len(uids), bool)
    at = np.minimum(np.searchsorted(subset, uids), len(subset) - 1)
    return subset[at] == uids


def uid_of(key: str, data: bytes | None) -> str | None:
    """Return a sample's uid: the field "uid" of its json, or its key when that is one."""
    if data is not None:
        try:
            uid = find(tree(data, "json"), "uid")
        except Fault:
            uid = None
        if isinstance(uid, str) and _is_uid(uid):
            return uid
    return key if _is_uid(key) else None


def shard_uids(index: ShardIndex, reader: Reader) -> NDArray[Any]:
    """Return the uid of each sample of a shard, zeros where there is none; kept in the cache folder."""
    folder = cache.cache_folder()
    name = hashlib.sha256(f"{identity(index.url)} {index.stat}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = folder / "uids" / f"{name}.npy" if folder else None
    kept = _kept(path, len(index)) if path else None
    if kept is not None:
        return kept
    found = []
    for row in range(len(index)):
        members = index.members(row)
        json_member = next(((at, min(size, JSON_BYTES + 1)) for name, at, size in members if name == "json"), None)
        data = reader.read(index.url, *json_member) if json_member else None
        found.append(uid_of(index.key(row), data) or "0" * 32)
    uids = parse_uids(found) if found else np.zeros(0, UID)
    if path:
        with contextlib.suppress(OSError):  # without a cache it is read again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as file:
                np.save(file, np.concatenate([uids, _seal(uids)]))
    return uids


def _seal(uids: NDArray[Any]) -> NDArray[Any]:
    """Return a last row that tells whether those before it are whole."""
    return np.array([(len(uids), zlib.crc32(uids.tobytes()))], UID)


def _kept(path: Path, count: int) -> NDArray[Any] | None:
    """Return uids that were kept; None when there are none, or other bytes than were written."""
    try:
        found = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == UID and found.shape == (count + 1,) and found[-1:] == _seal(found[:-1])
    return found[:-1] if whole else None


def _is_uid(text: str) -> bool:
    return len(text) == 32 and all(letter in "0123456789abcdefABCDEF" for letter in text)
