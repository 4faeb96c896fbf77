"""Ranges of a file from a web server that is not trusted: every answer is compared with what was asked.

fsspec opens the connection (its settings and its loop are used); the answers are judged here, because it takes the
whole file for the range that it asked for, and every error at opening for "not found".
"""

from __future__ import annotations

import asyncio
import errno
import re
from http import HTTPStatus
from typing import IO, Any, NamedTuple

CONNECT, SILENT = 15.0, 20.0  # seconds until a connection stands, and between two of its bytes
PLAIN = {"Accept-Encoding": "identity"}  # ranges are of the file, not of what it is packed into
PIECE = 1 << 20
WORDS = {  # what aiohttp's errors mean, the closer kind first
    "ClientConnectorDNSError": "no server of this name is known",
    "ClientSSLError": "no secure connection; is its certificate sound, or is it plain http?",
    "ClientConnectorError": "no connection: nothing listens there, or nothing gets through",
    "TooManyRedirects": "the server redirects in circles",
    "InvalidURL": "this is no address of a file",
    "ServerDisconnectedError": "the server hangs up",
}


class Part(NamedTuple):
    """Bytes of a file, and what the server says of the whole."""

    data: bytes
    size: int
    stamp: str


class Lasting(OSError):
    """Another try would end as this one did."""


class NoRanges(Exception):
    """The server answers with the whole file of `size` bytes, whatever part is asked for."""

    def __init__(self, size: int, stamp: str) -> None:
        super().__init__("the server ignores ranges")
        self.size, self.stamp = size, stamp


class Failed(Exception):
    """A try failed; `wait` is for how many seconds the server asks to be left alone."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def speaks(fs: Any) -> bool:
    """Whether a file system of fsspec is a web server."""
    return type(fs).__name__ == "HTTPFileSystem" and hasattr(fs, "set_session")


def stat(fs: Any, url: str, limit: float) -> tuple[int | None, str]:
    """Return size (None where the server does not tell) and stamp of a file."""
    return _sync(fs, _stat, url, limit)


def get(fs: Any, url: str, start: int, end: int, limit: float) -> Part:
    """Return bytes `start` to `end`, fewer only at the end of the file. Raises NoRanges, Lasting, Failed."""
    return _sync(fs, _get, url, limit, start, end)


def copy(fs: Any, url: str, out: IO[bytes], size: int) -> None:
    """Write the whole file of `size` bytes to `out`. Raises Lasting, Failed."""
    out.seek(0)
    out.truncate()
    _sync(fs, _copy, url, None, out, size)


def tell(error: Exception) -> str:
    """Return an error of a remote read in words, its capitals kept."""
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)) or "Timeout" in type(error).__name__:
        return "no answer in time"
    if isinstance(error, Failed):
        return str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    known = next((words for kind, words in WORDS.items() if kind in kinds), "")
    return f"{known} ({error})"[:300] if known else f"{type(error).__name__}: {error}"[:300]


def _sync(fs: Any, action: Any, url: str, limit: float | None, *args: Any) -> Any:
    from aiohttp import ClientTimeout
    from fsspec.asyn import sync

    waits = ClientTimeout(total=limit, sock_connect=CONNECT, sock_read=SILENT)
    return sync(fs.loop, action, fs, url, waits, *args)


async def _stat(fs: Any, url: str, waits: Any) -> tuple[int | None, str]:
    session = await fs.set_session()
    async with session.head(fs.encode_url(url), **_options(fs, waits), allow_redirects=True) as answer:
        if answer.status in (408, 429) or answer.status >= 500 and answer.status != 501:
            _judge(answer)
        size = answer.headers.get("Content-Length", "")
        if answer.status == 200 and size.isdecimal() and "Content-Encoding" not in answer.headers:
            return int(size), _stamp(answer)
    # signed for GET alone, or a server that does not know HEAD
    async with session.get(fs.encode_url(url), **_options(fs, waits, "bytes=0-0")) as answer:
        if answer.status == 416:
            return _size(answer, 0), _stamp(answer)
        _judge(answer)
        size = answer.headers.get("Content-Length", "")
        if answer.status == 206:
            return _size(answer), _stamp(answer)
        answer.close()
        return (int(size) if size.isdecimal() else None), _stamp(answer)


async def _get(fs: Any, url: str, waits: Any, start: int, end: int) -> Part:
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **_options(fs, waits, f"bytes={start}-{end - 1}")) as answer:
        if answer.status == 416:
            return Part(b"", _size(answer, 0) or 0, _stamp(answer))
        _judge(answer)
        size, stamp = _size(answer), _stamp(answer)
        if answer.status != 206:
            length = answer.headers.get("Content-Length", "")
            answer.close()
            if not length.isdecimal():
                text = "the server ignores ranges (Range) and tells no size; copy the shard to a disk and read it there"
                raise Lasting(errno.EIO, text)
            raise NoRanges(int(length), stamp)
        span = re.match(r"bytes (\d{1,18})-(\d{1,18})/", answer.headers.get("Content-Range", ""))
        if not span or int(span[1]) != start or size is None:
            raise Lasting(errno.EIO, f"the server answers with other bytes than were asked for (from {start} on)")
        wanted = min(end, size) - start
        data = await _at_most(answer, wanted)
        if len(data) != wanted:
            raise Failed(f"{len(data)} bytes where {wanted} were asked for")
        return Part(data, size, stamp)


def _options(fs: Any, waits: Any, span: str = "") -> dict[str, Any]:
    """Return the settings of a request: those of fsspec, our headers and time limits."""
    headers = {**fs.kwargs.get("headers", {}), **PLAIN, **({"Range": span} if span else {})}
    return {**fs.kwargs, "headers": headers, "timeout": waits}


async def _at_most(answer: Any, wanted: int) -> bytes:
    """Read what was asked for, and no more of a server that goes on."""
    data = bytearray()
    while len(data) < wanted and (piece := await answer.content.read(wanted - len(data))):
        data += piece
    if len(data) == wanted and await answer.content.read(1):
        raise Lasting(errno.EIO, f"the server sends more than the {wanted} bytes that were asked for")
    return bytes(data)


async def _copy(fs: Any, url: str, waits: Any, out: IO[bytes], size: int) -> None:
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **_options(fs, waits)) as answer:
        _judge(answer)
        done = 0
        while done <= size and (piece := await answer.content.read(PIECE)):
            out.write(piece)
            done += len(piece)
        if done != size:
            raise Failed(f"{done} bytes of {size} came")


def _judge(answer: Any) -> None:
    """Raise what the status of an answer means, unless it brings the bytes."""
    status = answer.status
    if status in (200, 206):
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Lasting(errno.EIO, "the server packs what it sends (Content-Encoding); ranges of that mean nothing")
        return
    words = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status in (404, 410):
        raise FileNotFoundError(words)
    if status in (401, 403, 407):
        raise Lasting(errno.EACCES, f"access is refused ({words}): sign in, or sign the address anew")
    if status in (408, 425, 429) or status >= 500:
        after = answer.headers.get("Retry-After", "")
        raise Failed(words, float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0)
    raise Lasting(errno.EIO, f"the server answers {words}")


def _size(answer: Any, default: int | None = None) -> int | None:
    found = re.search(r"/(\d{1,18})$", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else default


def _stamp(answer: Any) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
