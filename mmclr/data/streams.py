"""Shards that only a shell command gives (`pipe:`): their bytes are copied once into the user's cache folder.

From there on they are ordinary shards, with the whole guarantee: global shuffle, each sample once, exact resume. What
is weaker: the copy is not compared with the source again (remove it when the source has changed), and it takes disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from webdataset.gopen import gopen

from mmclr.data.sources import cache_folder
from mmclr.errors import UserError


def copy_stream(url: str) -> str:
    """Run the command of a `pipe:` URL, unless an earlier copy is there; return the path of the copy."""
    folder = cache_folder() / "streams"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the ranks of this machine copies, the others wait
        if not path.is_file():
            _copy(url, path)
    return str(path)


def _copy(url: str, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with gopen(url) as stream, open(temporary, "wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
        os.replace(temporary, path)
    except Exception as error:  # webdataset raises several kinds
        temporary.unlink(missing_ok=True)
        raise UserError(f"{url}: the command failed: {str(error)[:200]}") from error
