"""The one kind of error that is the user's to mend, and the place where it becomes a sentence."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType

from mmclr.display.output import ReaderGone
from mmclr.display.secrets import redact
from mmclr.display.terminal import plain, say

OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
                  errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}  # fmt: skip
NUMBER = re.compile(r"\b(?:os error|errno:?) (\d+)", re.IGNORECASE)  # libraries in Rust and C++ say it in words
_noted: set[str] = set()


class UserError(Exception):
    """Says in one sentence what is wrong, where (file, key, shard, line), and what to do.

    Its text has no secrets of addresses and nothing that a terminal would obey, wherever it is shown or written.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(plain(redact(text)) if isinstance(text, str) else text for text in args))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the known one that is meant, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(names)}" if names else ""


def note(text: str, about: str = "") -> None:
    """Say something on standard error, once: a run that goes on in another way than was asked must not be silent.

    Of several texts `about` the same only the first is said.
    """
    if (about or text) not in _noted:
        _noted.add(about or text)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            say(f"mmclr: {text}", file=sys.stderr, flush=True)


def run(name: str, command: Callable[[list[str]], int | None], args: list[str]) -> int:
    """Run a command and return its exit status; a UserError is printed without its traceback."""
    rank = os.environ.get("RANK", "0")
    who = name if rank == "0" else f"{name} [rank {rank}]"
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _unforeseen
    try:
        return _flushed(command, args)
    except UserError as error:
        say(f"{who}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        say(f"{who}: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except (BrokenPipeError, ReaderGone):  # `| head` has read enough; Python must not write the rest when it ends
        if sys.stdout is sys.__stdout__ and sys.stdout is not None:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        why = _of_a_folder(error)
        if not why:
            raise
        say(f"{who}: {why}", file=sys.stderr, flush=True)
        return 2


def _of_a_folder(error: Exception) -> str:
    """Return a sentence where a disk is full, or a folder is gone or may not be written; nothing otherwise."""
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return f"{error.strerror}; set TMPDIR to a folder that can be written"
    if isinstance(error, FileNotFoundError) and error.filename is None and not _here():
        return "the current folder has been deleted; change to another one"
    if not (number := of_the_machine(error)):
        return ""
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{where}{os.strerror(number)}; make room or give access there, or write to another folder"


def _here() -> bool:
    """Whether the current folder is there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, without the secrets of what libraries put into their errors."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip(), file=sys.stderr, flush=True)


def _flushed(command: Callable[[list[str]], int | None], args: list[str]) -> int:
    """Run a command; what it printed is out when it ends, also after --help."""
    try:
        status = command(args) or 0
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()
        raise
    if sys.stdout is not None:
        sys.stdout.flush()
    return status


def of_the_machine(error: BaseException) -> int:
    """Return the error number where a disk is full or may not be written, 0 where it is something else."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (said := NUMBER.search(str(error))):  # safetensors' errors, for example
        number = int(said[1])
    return number if number in OF_THE_MACHINE else 0
