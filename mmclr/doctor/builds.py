"""Builds of C++ extensions that were killed: torch waits for their locks for ever, so DeepSpeed seems to hang."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mmclr.data.shards.cache import cache_folder
from mmclr.doctor.finding import Finding

PATIENCE = 30 * 60  # seconds without a new file after which no compiler is still at work


def root() -> Path:
    """Return the folder where torch builds extensions."""
    folder = cache_folder()
    cache = folder.parent if folder else Path(tempfile.gettempdir())
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")


def check(fix: bool, folder: Path | None = None) -> Iterator[Finding]:
    """Yield a finding for every lock that nobody holds any more; with `fix`, remove it."""
    for lock in sorted((folder or root()).glob("**/lock")):
        newest = max(path.stat().st_mtime for path in lock.parent.iterdir())
        if time.time() - newest < PATIENCE:
            continue
        why = f"a build of {lock.parent.name} was killed, and every later start of DeepSpeed waits for it for ever"
        if fix:
            yield Finding("note", f"repair builds: removes {lock}", why)
            lock.unlink(missing_ok=True)
            yield Finding("fixed", f"{lock} is removed", why)
        else:
            yield Finding("BROKEN", str(lock), why, "mmclr doctor --fix builds")
