"""Sources of bytes: shards read at (offset, size) from disk, from a web server or any store fsspec opens."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmclr.data.shards import addresses, cache, web
from mmclr.data.shards.addresses import identity, is_remote, is_stream, local
from mmclr.data.shards.cache import cache_folder
from mmclr.errors import UserError, note
from mmclr.storage.whole_file import whole

__all__ = ["Reader", "Stat", "cache_folder", "expand", "is_remote", "is_stream", "local", "stat"]

OPEN_FILES = 64  # per process
BLOCK = 4 << 20  # bytes of one remote read
CACHE = 64  # remote blocks kept per process (256 MiB)
TIMEOUT = 60.0  # seconds for one remote read
PATIENCE = (0.2, 0.8, 3.2, 10.0)  # seconds to wait before each new try of a remote read
LONGEST_WAIT = 30.0  # seconds that a server may ask to wait (Retry-After) before a new try
AT_MOST = 120.0  # seconds after which nothing is tried again


class Stat(NamedTuple):
    """Size and state of a file, by which it is known as the one that was indexed."""

    size: int
    stamp: str  # mtime in ns, or what the store gives (etag, mtime)


def expand(urls: str | Sequence[str], allow_pipe: bool = False) -> list[str]:
    """Return the shards that brace URLs, globs, '::'-joined lists or lists of these name, in their order.

    Raises UserError when a pattern matches nothing, and for `pipe:` when it is not allowed.
    """
    return addresses.expand(urls, allow_pipe, _listing)


def stat(url: str) -> Stat:
    """Return size and stamp of a shard. Raises UserError when it is not there."""
    try:
        return _stat(url)
    except (OSError, ValueError) as error:  # ValueError: a null byte in a path
        raise UserError(f"{identity(url)}: {why(error)}; {_advice(url, error)}") from error


def _advice(url: str, error: Exception) -> str:
    """Say what to do about a shard that cannot be opened."""
    if is_remote(url):
        known = {
            errno.ENETUNREACH: "the same command goes on",
            errno.EACCES: "the same command goes on",
            errno.ENOENT: "check its address",
        }
        return known.get(getattr(error, "errno", None) or 0, "check its address, or give the command again later")
    close = addresses.beside(local(url))
    return "check the path of this shard" + (f" (did you mean {close}?)" if close else "")


def _stat(url: str) -> Stat:
    if not is_remote(url):
        status = os.stat(local(url))
        return Stat(status.st_size, str(status.st_mtime_ns))
    size, stamp = _retry(url, _remote_stat)
    if size is None:
        raise UserError(f"{identity(url)}: the server does not tell its size; copy it to a disk and read it there")
    return Stat(size, stamp)


def _remote_stat(fs: Any, path: str) -> tuple[int | None, str]:
    if web.speaks(fs):
        return web.stat(fs, path, TIMEOUT)
    info = fs.info(path)
    stamp = next((str(info[k]) for k in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(k)), "")
    return None if info.get("size") is None else int(info["size"]), stamp


class Reader:
    """Reads bytes at an offset; keeps files open and remote blocks in memory. Safe in threads and after a fork."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, int] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._reset()

    def read(self, url: str, offset: int, size: int, alone: bool = False, stat: Stat | None = None) -> bytes:
        """Return up to `size` bytes at `offset`, fewer only at the end of the file. Raises OSError.

        A remote read fetches whole blocks, because what follows will be wanted; `alone` fetches the bytes and no more.
        With `stat`, a web server must still have the file that this was of.
        """
        if self._owner != os.getpid():
            self._reset()
        url = _copies.get(url, url)
        if not is_remote(url):
            return self._local(url, offset, size)
        return _fetch(url, offset, offset + size, stat) if alone else self._remote(url, offset, size, stat)

    @contextmanager
    def opened(self, url: str) -> Iterator[Callable[[int, int], bytes]]:
        """Give read(offset, size) of one shard that is read from end to end."""
        url = _copies.get(url, url)
        if is_remote(url):
            yield lambda offset, size: self.read(url, offset, size)
            return
        file = os.open(local(url), os.O_RDONLY)  # of its own: many small reads need no lock
        try:
            yield lambda offset, size: os.pread(file, size, offset)
        finally:
            os.close(file)

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():  # without the lock: nobody else knows this reader
            with contextlib.suppress(OSError):
                os.close(file)

    def close(self) -> None:
        """Close all files and forget all blocks."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()
            self._blocks.clear()

    def _local(self, url: str, offset: int, size: int) -> bytes:
        with self._lock:  # a file must not be closed by another thread while it is read
            return os.pread(self._file(url), size, offset)

    def _file(self, url: str) -> int:
        if url in self._files:
            self._files.move_to_end(url)
            return self._files[url]
        if len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[url] = os.open(local(url), os.O_RDONLY)
        return self._files[url]

    def _remote(self, url: str, offset: int, size: int, stat: Stat | None) -> bytes:
        first, last = offset // BLOCK, max(offset, offset + size - 1) // BLOCK
        whole = b"".join(self._block(url, number, stat) for number in range(first, last + 1))
        return whole[offset - first * BLOCK : offset - first * BLOCK + size]

    def _block(self, url: str, number: int, stat: Stat | None) -> bytes:
        with self._lock:
            block = self._blocks.get((url, number))
            mine = block is None
            if block is None:  # threads that want the same block wait for the first
                block = self._blocks[url, number] = Future()
            self._blocks.move_to_end((url, number))
            while len(self._blocks) > CACHE:
                self._blocks.popitem(last=False)
        if mine:
            try:
                block.set_result(_fetch(url, number * BLOCK, (number + 1) * BLOCK, stat))
            except BaseException as error:  # whatever it is, who waits for the block must hear of it
                with self._lock:
                    self._blocks.pop((url, number), None)
                block.set_exception(error)
        return block.result()


_copies: dict[str, str] = {}  # of shards whose server ignores ranges: the path of the local copy


def _fetch(url: str, start: int, end: int, stat: Stat | None = None) -> bytes:
    """Return bytes `start` to `end` of a remote shard. Raises OSError."""

    def action(fs: Any, path: str) -> bytes:
        if not web.speaks(fs):
            return bytes(fs.cat_file(path, start=start, end=end, **_limit(fs)))
        part = web.get(fs, path, start, end, TIMEOUT)
        if stat is not None and (part.size != stat.size or (part.stamp and stat.stamp and part.stamp != stat.stamp)):
            raise web.Lasting(errno.ESTALE, "the shard has changed since it was indexed; start again")
        return part.data

    try:
        data: bytes = _retry(url, action)
        return data
    except web.NoRanges as answer:
        _copies[url] = _copy(url, stat or Stat(answer.size, answer.stamp))
    with open(_copies[url], "rb") as file:
        return os.pread(file.fileno(), end - start, start)


def _copy(url: str, stat: Stat) -> str:
    """Copy a shard whose server gives nothing but the whole; return the path of the copy, which later runs find."""
    room = cache.room("copies") if stat.stamp else cache.passing("copies")  # without a stamp nothing tells its age
    path = Path(room) / f"{hashlib.sha256(f'{identity(url)} {stat}'.encode()).hexdigest()[:32]}.tar"
    with cache.one_at_a_time(path):
        if not path.is_file() or path.stat().st_size != stat.size:
            note(f"{identity(url)}: its server ignores ranges (Range); it is copied whole to {path}", about=url)
            with whole(path) as out:
                _retry(url, lambda fs, remote: web.copy(fs, remote, out, stat.size))
    return str(path)


def _retry(url: str, action: Any) -> Any:
    """Do `action(filesystem, path)`, again after a pause when it fails. Raises UserError or OSError at the end."""
    import fsspec

    begin = time.monotonic()
    try:
        fs, path = fsspec.core.url_to_fs(addresses.allowed(url))
    except (ImportError, ValueError) as error:
        raise UserError(f"{identity(url)}: {error}") from error
    for tries, pause in enumerate((*PATIENCE, None), 1):
        try:
            return action(fs, path)
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, "there is no such shard", identity(url)) from error
        except (web.Lasting, web.NoRanges):
            raise
        except PermissionError as error:
            raise OSError(errno.EACCES, f"access is refused: {why(error)}", identity(url)) from error
        except Exception as error:  # every store has its own kinds of errors
            wait = max(pause or 0, min(getattr(error, "wait", 0), LONGEST_WAIT))
            if type(error).__name__ == "OfflineModeIsEnabled":
                text = "HF_HUB_OFFLINE is set, so nothing is fetched: unset it, or copy the shard to a disk"
                raise OSError(errno.ENETUNREACH, text, identity(url)) from error
            last = pause is None or isinstance(error, ValueError)  # no address: it will not become one
            if last or time.monotonic() - begin + wait > AT_MOST:
                text = f"{tries} tries failed, the last with {web.tell(error)}" if tries > 1 else web.tell(error)
                raise OSError(errno.EIO, text, identity(url)) from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _limit(fs: Any) -> dict[str, float]:
    return {"timeout": TIMEOUT} if fs.async_impl else {}


def _listing(pattern: str) -> list[str]:
    """Return the addresses that a remote glob matches."""
    name = addresses.scheme(pattern)
    try:
        found = _retry(pattern, lambda fs, path: fs.glob(path))
    except OSError as error:
        raise UserError(f"{identity(pattern)}: cannot be listed: {why(error)}") from error
    return [f"{name}://{path.split('://')[-1]}" for path in found]


def why(error: Exception) -> str:
    """Return the reason of an error, to follow a colon: names in it keep their capitals."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    first = re.split(r"\W", text, maxsplit=1)[0]
    return text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text  # HF_HUB_OFFLINE, ValueError
