"""The folder for what can be made again (indices, copies, uids), and what happens where there is none.

On shared file systems nothing here depends on a lock: each file is written whole under a name of its own, flushed, and
then renamed, so that a reader sees all of it or nothing, and the last of two writers leaves the same bytes. Locks only
save work; where a file system has none, the work is done twice.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from mmclr.errors import note


def cache_folder() -> Path | None:
    """Return where mmclr keeps what it can make again; None for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "mmclr"
    except RuntimeError:  # no HOME, and no entry in /etc/passwd
        return None


def room(name: str) -> Path:
    """Return a folder that can be written: `name` in the cache folder, else one of this run that its end removes."""
    folder = cache_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            (folder / name).mkdir(parents=True, exist_ok=True)
            if os.access(folder / name, os.W_OK):
                return folder / name
    note("there is no cache folder that can be written (set XDG_CACHE_HOME): copies last as long as this run")
    return passing(name)


def passing(name: str) -> Path:
    """Return a folder of this run, which its end removes."""
    path = _passing() / name
    path.mkdir(exist_ok=True)
    return path


@functools.lru_cache(1)
def _passing() -> Path:
    path, owner = Path(tempfile.mkdtemp(prefix="mmclr-")), os.getpid()
    atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == owner else None)
    return path


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process of this machine (of all, where the file system locks across them) make `path`."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError):  # no locks on this file system
        yield
        return
    try:
        yield
    finally:
        lock.release()
