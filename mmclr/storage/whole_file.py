"""Files that are whole or not there: written beside their place, flushed to the disk, renamed; known by a checksum."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

CHUNK = 8 << 20  # bytes


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Give `path` these contents: after a kill, a full disk or a lost power supply it has all of them or the old ones.

    A link is replaced and not followed; permissions stay as they were. What is no file (/dev/stdout, a pipe) is just
    written to. Raises OSError, and leaves nothing behind then.
    """
    path, data = Path(path), data.encode("utf-8") if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with whole(path) as file:
        file.write(data)
    sync_folder(path.parent)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file so that readers, other processes and other machines see the whole of it or none."""
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")  # machines may share a process id
    try:
        with open(temporary, "xb") as file:
            yield file
        seal(temporary, path)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def seal(partial: Path, place: Path) -> None:
    """Flush a file to the disk that is about to replace `place`, and give it the permissions that `place` has."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    if place.is_file():
        shutil.copymode(place, partial)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, about 3 GB/s: any flipped bit changes it. It is no guard against malice."""
    value = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
