"""The one kind of error that is the user's to mend, and the place where it becomes a sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable

OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class UserError(Exception):
    """Says in one sentence what is wrong, where (file, key, shard, line), and what to do."""


def run(name: str, command: Callable[[list[str]], int | None], args: list[str]) -> int:
    """Run a command and return its exit status; a UserError is printed without its traceback."""
    rank = os.environ.get("RANK", "0")
    who = name if rank == "0" else f"{name} [rank {rank}]"
    try:
        status = command(args) or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"{who}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(f"{who}: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `| head` has read enough; Python must not try to write the rest when it ends
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"{who}: {where}{error.strerror}; make room or give access there, or write to another folder",
            file=sys.stderr,
            flush=True,
        )
        return 2
