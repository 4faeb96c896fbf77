"""Where bytes come from: the shards that a pattern names, read at (offset, size) from disk or anything fsspec opens."""

from __future__ import annotations

import errno
import glob
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from webdataset.shardlists import expand_urls

from mmclr.errors import UserError

OPEN_FILES = 64  # per process
BLOCK = 4 << 20  # bytes of one remote read
CACHE = 64  # remote blocks kept per process (256 MiB)
TIMEOUT = 60.0  # seconds for one remote read
PATIENCE = (0.2, 0.8, 3.2, 10.0)  # seconds to wait before each new try of a remote read


class Stat(NamedTuple):
    """What tells whether a file is still the one that was indexed."""

    size: int
    stamp: str  # mtime in ns, or what the store gives (etag, mtime)


def expand(urls: str | Sequence[str], allow_pipe: bool = False) -> list[str]:
    """Return the shards that brace URLs, globs, '::'-joined lists or lists of these name, in their order.

    Raises UserError when a pattern matches nothing, and for `pipe:` when it is not allowed.
    """
    parts = [part for url in ([urls] if isinstance(urls, str) else urls) for part in _split(url)]
    shards = [shard for part in parts for shard in _match(part, allow_pipe)]
    if not shards:
        raise UserError(f"{urls!r} names no shard")
    return shards


def cache_folder() -> Path:
    """Return where mmclr keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmclr"


def is_remote(url: str) -> bool:
    """Whether `url` has a scheme other than file://."""
    return "://" in url and not url.startswith("file://")


def is_stream(url: str) -> bool:
    """Whether `url` can only be read from its start to its end."""
    return url.startswith("pipe:")


def stat(url: str) -> Stat:
    """Return size and stamp of a shard. Raises UserError when it is not there."""
    try:
        return _stat(url)
    except OSError as error:
        raise UserError(f"{url}: {_why(error)}; check the path of this shard") from error


def _stat(url: str) -> Stat:
    if not is_remote(url):
        status = os.stat(local(url))
        return Stat(status.st_size, str(status.st_mtime_ns))
    info = _retry(url, lambda fs, path: fs.info(path))
    if info.get("size") is None:
        raise UserError(f"{url}: the server does not tell its size; read it as pipe: with data.allow_pipe=true")
    stamp = next((str(info[k]) for k in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(k)), "")
    return Stat(int(info["size"]), stamp)


def local(url: str) -> str:
    """Return the path of a local shard."""
    return url.removeprefix("file://")


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

    def read(self, url: str, offset: int, size: int, alone: bool = False) -> bytes:
        """Return up to `size` bytes at `offset`, fewer only at the end of the file. Raises OSError.

        A remote read fetches whole blocks, because what follows will be wanted; `alone` fetches the bytes and no more.
        """
        if self._owner != os.getpid():
            self._reset()
        if not is_remote(url):
            return self._local(url, offset, size)
        return _fetch(url, offset, offset + size) if alone else self._remote(url, offset, size)

    @contextmanager
    def opened(self, url: str) -> Iterator[Callable[[int, int], bytes]]:
        """Give read(offset, size) of one shard that is read from end to end."""
        if is_remote(url):
            yield lambda offset, size: self.read(url, offset, size)
            return
        file = os.open(local(url), os.O_RDONLY)  # of its own: many small reads need no lock
        try:
            yield lambda offset, size: os.pread(file, size, offset)
        finally:
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

    def _remote(self, url: str, offset: int, size: int) -> bytes:
        first, last = offset // BLOCK, max(offset, offset + size - 1) // BLOCK
        whole = b"".join(self._block(url, number) for number in range(first, last + 1))
        return whole[offset - first * BLOCK : offset - first * BLOCK + size]

    def _block(self, url: str, number: int) -> bytes:
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
                block.set_result(_fetch(url, number * BLOCK, (number + 1) * BLOCK))
            except (OSError, UserError) as error:
                with self._lock:
                    self._blocks.pop((url, number), None)
                block.set_exception(error)
        return block.result()


def _fetch(url: str, start: int, end: int) -> bytes:
    return _retry(url, lambda fs, path: fs.cat_file(path, start=start, end=end, **_limit(fs)))


def _retry(url: str, action: Any) -> Any:
    """Do `action(filesystem, path)`, again after a pause when it fails. Raises UserError or OSError at the end."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}") from error
    for pause in (*PATIENCE, None):
        try:
            return action(fs, path)
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, "there is no such shard", url) from error
        except Exception as error:  # every store has its own kinds of errors
            if pause is None:
                raise OSError(errno.EIO, f"{len(PATIENCE) + 1} tries failed, the last with {error!r}", url) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _limit(fs: Any) -> dict[str, float]:
    return {"timeout": TIMEOUT} if fs.async_impl else {}


def _split(url: str) -> list[str]:
    return [url] if is_stream(url) else url.split("::")


def _match(part: str, allow_pipe: bool) -> Iterable[str]:
    if is_stream(part):
        if not allow_pipe:
            raise UserError(f"{part!r} runs a shell command; write data.allow_pipe=true when you trust it")
        return expand_urls(part)
    urls = expand_urls(part)
    return [shard for url in urls for shard in (_glob(url) if _has_magic(url) else [url])]


def _has_magic(url: str) -> bool:
    return "*" in url if is_remote(url) else glob.has_magic(url)  # "?" begins the query of an address


def _glob(pattern: str) -> list[str]:
    if is_remote(pattern):
        scheme = pattern.split("://")[0]
        found = [f"{scheme}://{path.split('://')[-1]}" for path in _retry(pattern, lambda fs, path: fs.glob(path))]
    else:
        found = glob.glob(local(pattern), recursive=True)
    if not found:
        raise UserError(f"{pattern}: no shard matches this pattern; check its folder and its braces")
    return sorted(found)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
