"""Files that are whole or not there: written beside their place, flushed to the disk, renamed; known by a checksum."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from pathlib import Path

CHUNK = 8 << 20  # bytes


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Give `path` these contents: after a kill, a full disk or a lost power supply it has all of them or the old ones.

    A link is replaced and not followed; permissions stay as they were. What is no file (/dev/stdout, a pipe) is just
    written to. Raises OSError, and leaves nothing behind then.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def _mode(path: Path) -> int:
    """Return the permissions of a file, or those that a new one gets."""
    try:
        return path.stat().st_mode & 0o7777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


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
