"""Shards that only a shell command gives (`pipe:`): their bytes are copied once into the user's cache folder.

From there on they are ordinary shards, with the whole guarantee: global shuffle, each sample once, exact resume. What
is weaker: the copy is not compared with the source again (remove it when the source has changed), and it takes disk.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from webdataset.gopen import gopen

from mmclr.data.shards import cache
from mmclr.data.shards.addresses import Command
from mmclr.display.secrets import address
from mmclr.errors import UserError
from mmclr.storage.whole_file import whole


def copy_stream(url: str) -> str:
    """Run the command of a `pipe:` URL, unless an earlier copy is there; return the path of the copy.

    Raises UserError for a plain string: only sources.expand makes a Command, where data.allow_pipe allows it.
    """
    if not isinstance(url, Command):
        raise UserError(f"{url!r} runs a shell command; write data.allow_pipe=true when you trust it")
    path = cache.room("streams") / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"
    with cache.one_at_a_time(path):  # one of the ranks of this machine copies, the others wait
        if not path.is_file():
            _copy(url, path)
    return str(path)


def _copy(url: str, path: Path) -> None:
    try:
        with whole(path) as out, gopen(str(url)) as stream:
            shutil.copyfileobj(stream, out, 1 << 20)
    except Exception as error:  # webdataset raises several kinds
        status = re.search(r"exit (?:status )?(-?\d+)", str(error))  # the rest of it repeats the command
        why = f"status {status[1]}" if status else type(error).__name__
        raise UserError(f"{address(url)}: the command failed ({why}); run it in a shell to see why") from None
