"""Output that is closed, full, or has lost its reader: no traceback, and no training that ends because of it.

mmclr papers | head -1            ends quietly, as other commands of a shell do: status 141 (128 + SIGPIPE)
mmclr train ... 2>&1 | head -1    goes on: what it learns is worth more than what it says
mmclr papers >&-                  says nothing; a file that is opened does not take the place of a closed output
mmclr papers >/dev/full           one sentence, status 2
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

LOST = {errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET, errno.EIO}  # the reader has gone, or the terminal
_guarded: dict[str, _Guarded] = {}


class ReaderGone(BaseException):
    """Nobody reads what a command prints: it ends. No Exception, so that nothing on the way takes it for its own."""


class _Guarded(io.FileIO):
    """An output that fails once at most: then it swallows everything."""

    def __init__(self, descriptor: int, swallow: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.swallow = swallow  # the first failure too
        self.lost = False

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.lost:
            return size
        try:
            return super().write(data) or 0
        except OSError as error:
            self.lost = True
            if self.swallow:
                return size
            if error.errno in LOST:
                raise ReaderGone from None
            raise OSError(error.errno, error.strerror, "standard output") from None


def guard() -> None:
    """Take care of this process's standard output and standard error; to be called before any file is opened."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    for name, descriptor, swallow in (("stdout", 1, False), ("stderr", 2, True)):
        if os.name == "posix" and getattr(sys, name) in (None, getattr(sys, f"__{name}__")):
            setattr(sys, name, _stream(getattr(sys, name), name, descriptor, swallow))


def _stream(old: Any, name: str, descriptor: int, swallow: bool) -> io.TextIOWrapper:
    raw = _guarded[name] = _Guarded(descriptor, swallow)
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace")
    with contextlib.suppress(OSError):
        old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding,
        errors="backslashreplace" if old.errors == "strict" else old.errors,  # a letter that it lacks is no error
        line_buffering=old.line_buffering or swallow,
        write_through=old.write_through,
    )


@contextlib.contextmanager
def swallowed(yes: bool) -> Iterator[None]:
    """Let a command that must not end by its output go on without it."""
    raw = _guarded.get("stdout")
    before = raw.swallow if raw else False
    if raw:
        raw.swallow = yes or before
    try:
        yield
    finally:
        if raw:
            raw.swallow = before
