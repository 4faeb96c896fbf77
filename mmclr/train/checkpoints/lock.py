"""One run, one writer: a lock on the run's folder, held as long as the process lives.

By `filelock`: flock on Linux and macOS, msvcrt on Windows. The system lets go when the process ends, however it ends:
no lock is ever stale, and the file that stays behind (RUN/.lock) means nothing by itself. Between machines:

    NFS (Linux 2.6.12 on, its lock service running), Lustre mounted with -o flock, GPFS, CephFS, BeeGFS with
    tuneUseGlobalFileLocks: a second run on any machine is refused.
    Lustre with -o localflock, BeeGFS without, most FUSE mounts: only a second run on the same machine is.
    File systems without flock: filelock's marker file, with host and process; or, where that cannot be either, nothing,
    and that is said. Whole files (temporary names of their own, renames) are whole there too; two writers would only
    take turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mmclr.errors import UserError, note

FILE = ".lock"


@contextlib.contextmanager
def held(folder: Path, main: bool) -> Iterator[None]:
    """Lock `folder` for as long as the context lasts, on the main process."""
    lock = hold(folder) if main else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def hold(folder: Path, patience: float = 30.0) -> FileLock | None:
    """Lock `folder`; wait up to `patience` seconds for a process that is just being killed to let go.

    Returns None where the file system has no locks of any kind.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).touch()
    except OSError as error:
        raise UserError(f"out: {folder} cannot be written ({error.strerror}); set out to another folder") from None
    lock = FileLock(folder / FILE)
    try:
        lock.acquire(timeout=patience, poll_interval=0.2)
    except Timeout:
        raise UserError(f"{folder}: another process trains in this folder; stop it, or set out= to another") from None
    except (OSError, NotImplementedError) as error:
        note(f"{folder}: its file system has no locks ({error}); see to it that no second run writes there")
        return None
    return lock
