"""The manifest of a folder that we write into: one JSON line for each file, with what wrote it (`by`) and its SHA-256.

It is not trusted: a name in it that leaves the folder, or goes over a link, names nothing of ours.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from mmclr import __version__

MANIFEST = ".mmclr-written.jsonl"
Owned = Mapping[str, frozenset[tuple[str, str]]]  # name -> (by, SHA-256) of all that we ever wrote there


def owned(folder: Path) -> Owned:
    """Return what the manifest of a folder says."""
    found: dict[str, set[tuple[str, str]]] = {}
    for line in lines(folder):
        name, digest = line.get("name"), line.get("sha256")
        if isinstance(name, str) and isinstance(digest, str):
            found.setdefault(name, set()).add((str(line.get("by")), digest))
    return {name: frozenset(kinds) for name, kinds in found.items()}


def lines(folder: Path) -> Iterator[dict[str, object]]:
    """Yield the lines of a folder's manifest that can be read; none where it has no manifest."""
    with contextlib.suppress(OSError):
        for text in (folder / MANIFEST).read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict):
                    yield line


def note(folder: Path, line: Mapping[str, object]) -> None:
    """Append a line to the manifest, in one write: others may append at the same time."""
    with open(folder / MANIFEST, "ab") as file:
        file.write(json.dumps(line).encode() + b"\n")


def line_of(name: str, path: Path, by: str) -> dict[str, object]:
    """Return the line of a file that gets a name."""
    return {"name": name, "size": path.stat().st_size, "sha256": sha256(path), "by": by, "mmclr": __version__}


def holds(path: Path, known: frozenset[tuple[str, str]], by: str) -> bool:
    """Whether a file is a plain one and has bytes that we wrote."""
    digests = {digest for who, digest in known if who == by}
    return bool(digests) and not path.is_symlink() and path.is_file() and sha256(path) in digests


def inside(folder: Path, name: str) -> bool:
    """Whether a name of a manifest stays in its folder, over no link."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        return False
    return not any(folder.joinpath(*parts[:n]).is_symlink() for n in range(1, len(parts)))


def lives(line: Mapping[str, object]) -> bool:
    """Whether the process that began something may be at it still: on another machine, nobody knows."""
    pid = line.get("pid")
    if line.get("host") != socket.gethostname() or not isinstance(pid, int) or os.name != "posix":
        return True
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(functools.partial(file.read, 1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()
