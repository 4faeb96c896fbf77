"""The one kind of error that is the user's to mend, and the place where it becomes a sentence."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Says in one sentence what is wrong, where (file, key, shard, line), and what to do."""


def run(name: str, command: Callable[[list[str]], int | None], args: list[str]) -> int:
    """Run a command and return its exit status; a UserError is printed without its traceback."""
    rank = os.environ.get("RANK", "0")
    who = name if rank == "0" else f"{name} [rank {rank}]"
    try:
        return command(args) or 0
    except UserError as error:
        print(f"{who}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(f"{who}: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
