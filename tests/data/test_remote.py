"""Shards behind a real HTTP server that fails now and then are the same shards."""

import http.server
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from mmclr.data.shards import sources
from mmclr.errors import UserError
from tests.data.made import RANDOM, rows, take, write_shards

pytest.importorskip("aiohttp")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder with ranges; `broken` maps a path to how many requests for it fail first, and how."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.broken, self.requests = folder, {}, Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        name = self.path.lstrip("/")
        self.server.requests[name, self.command] += 1
        how, times = self.server.broken.get(name, ("", 0))
        if times and body:
            self.server.broken[name] = how, times - 1
            if how == "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
        path = self.server.folder / name
        error = 500 if times and body and how == "500" else 404 if not path.is_file() else 0
        if error:
            self.send_error(error)
            return
        data, total = path.read_bytes(), path.stat().st_size
        status = 200
        wanted = self.headers.get("Range")
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            status, data = 206, data[int(first) : int(last) + 1 if last else total]
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{total}")
        self.end_headers()
        if body:
            if how == "short" and times:
                data = data[: len(data) // 2]
                self.close_connection = True
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "PATIENCE", (0.01, 0.01, 0.01))
    write_shards(tmp_path / "www", [20, 30, 3])
    with Server(tmp_path / "www") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("workers", "block"), [(0, 1), (0, 8), (2, 1), (2, 8)])
def test_remote_equals_local(make_loader, server, tmp_path, workers, block):
    names = "{00000..00002}.tar"
    local = make_loader(train=f"{tmp_path}/www/{names}", block=block, **RANDOM)
    remote = make_loader(train=f"{server.url}/{names}", workers=workers, block=block, **RANDOM)
    assert remote.samples == 53
    expected = [row for batch in take(local, 6) for row in rows(batch)]
    assert [row for batch in take(remote, 6) for row in rows(batch)] == expected
    gets = sum(count for (name, how), count in server.requests.items() if how == "GET")
    # whole blocks when neighbours stay together: one to index, and one for each process; else a request per sample
    assert gets <= 3 * (2 + workers) if block > 1 else gets >= 72


@pytest.mark.parametrize("how", ["500", "reset", "short"])
def test_failures_are_tried_again(make_loader, server, how):
    expected = make_loader(train=f"{server.url}/{{00000..00002}}.tar")
    server.broken = {f"0000{n}.tar": (how, 2) for n in range(3)}
    loader = make_loader(train=f"{server.url}/{{00000..00002}}.tar")
    assert [rows(a) for a in take(loader, 5)] == [rows(b) for b in take(expected, 5)]
    assert loader.ledger.lost == 0
    assert all(times == 0 for _, times in server.broken.values())


def test_lasting_failure_is_a_clear_error(make_loader, server):
    url = f"{server.url}/00001.tar"
    server.broken = {"00001.tar": ("500", 1000)}
    with pytest.raises(UserError, match=r"00001\.tar: cannot be read: .*4 tries failed, the last with"):
        make_loader(train=url)
    server.broken = {}
    loader = make_loader(train=f"{server.url}/{{00000..00002}}.tar", faults="skip", max_faults=0.9, batch=53)
    server.broken = {"00001.tar": ("reset", 1000)}
    take(loader, 1)
    assert loader.ledger.counts["unreadable"] == 30
    assert "tries failed" in loader.ledger.examples["unreadable"][0].detail


def test_missing_remote_shard(make_loader, server):
    with pytest.raises(UserError, match=r"00007\.tar: there is no such shard"):
        make_loader(train=f"{server.url}/00007.tar")
    with pytest.raises(UserError, match="nowhere"):
        make_loader(train="nowhere://bucket/0.tar")


def test_sidecar_of_a_remote_shard_is_used_again(make_loader, server):
    url = f"{server.url}/00000.tar"
    make_loader(train=url)
    seen = Counter(server.requests)
    make_loader(train=url)
    assert server.requests["00000.tar", "GET"] == seen["00000.tar", "GET"]
    path = Path(server.folder / "00000.tar")
    write_shards(path.parent, [12])
    assert make_loader(train=url).samples == 12


def test_cache_of_blocks_is_bounded(monkeypatch, server):
    monkeypatch.setattr(sources, "BLOCK", 4096)
    monkeypatch.setattr(sources, "CACHE", 3)
    whole = (server.folder / "00001.tar").read_bytes()
    reader = sources.Reader()
    url = f"{server.url}/00001.tar"
    for start, size in ((0, 100), (4090, 10), (10_000, 9000), (len(whole) - 50, 50), (len(whole) - 50, 500)):
        assert reader.read(url, start, size) == whole[start : start + size]
    assert len(reader._blocks) <= 3


def test_memory_filesystem_and_globs(make_loader, server):
    """Anything that fsspec opens."""
    import fsspec

    store = fsspec.filesystem("memory")
    for path in sorted(server.folder.glob("*.tar")):
        store.pipe(f"/bucket/{path.name}", path.read_bytes())
    loader = make_loader(train="memory://bucket/*.tar")
    assert loader.samples == 53
    assert rows(take(loader, 1)[0]) == rows(take(make_loader(train=f"{server.folder}/*.tar"), 1)[0])
