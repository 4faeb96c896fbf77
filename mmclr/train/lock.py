"""One run, one writer: a lock on the run's folder, held as long as the process lives."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mmclr.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs in one folder are then not noticed
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def held(folder: Path, main: bool) -> Iterator[None]:
    """Lock `folder` for as long as the context lasts, on the main process."""
    handle = hold(folder) if main else None
    try:
        yield
    finally:
        if handle is not None:
            handle.close()


def hold(folder: Path, patience: float = 30.0) -> IO[str] | None:
    """Lock `folder`; wait up to `patience` seconds for a process that is just being killed to let go."""
    if fcntl is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"out: {folder} cannot be written ({error.strerror}); set out to another folder") from None
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() > deadline:
                handle.close()
                raise UserError(
                    f"{folder}: another process trains in this folder; stop it, or set out= to another"
                ) from None
            time.sleep(0.2)
