"""Servers are not trusted: what they answer is compared with what was asked, and statuses are named."""

import http.server
import re
import threading

import pytest

from mmclr.data.shards import sources, web
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import open_index
from mmclr.data.shards.shards import Shards
from mmclr.errors import UserError
from tests.data.made import pair, write_tar

pytest.importorskip("aiohttp")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as server.mode says: ranges, or what servers make of them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, data = self.server, self.server.data
        server.count += 1
        status = server.statuses.pop(0) if server.statuses else server.status
        if status or (self.command == "HEAD" and server.mode == "no_head"):
            self.send_response(status or 403)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        span = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        a, b = (int(span[1]), min(int(span[2]), len(data) - 1)) if span else (0, len(data) - 1)
        if server.mode in ("plain", "no_length") or not span:
            status, a, b = 200, 0, len(data) - 1
        body, shift = data[a : b + 1], 512 if server.mode == "elsewhere" and a else 0
        if server.mode == "short" and span and len(body) > 1:
            body = body[:-1]
        self.send_response(206 if span and status != 200 else 200)
        if server.mode == "no_length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        if span and status != 200:
            self.send_header("Content-Range", f"bytes {a + shift}-{b + shift}/{len(data)}")
        self.send_header("ETag", server.stamp)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "PATIENCE", (0.01, 0.01))
    members = [(f"{n:03d}.{e}", d) for n in range(20) for e, d in pair(n).items()]
    out = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    out.daemon_threads = True
    out.data = write_tar(tmp_path / "a.tar", members).read_bytes()
    out.mode, out.status, out.statuses, out.stamp, out.count = "", 0, [], '"1"', 0
    out.url = f"http://127.0.0.1:{out.server_port}/a.tar"
    thread = threading.Thread(target=out.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield out
    out.shutdown()
    thread.join()
    out.server_close()


def captions(url):
    shards = Shards([open_index(url)])
    shards.alone = True
    return [shards.read(n).members["txt"].decode() for n in range(len(shards))]


ALL = [f"image number {n}" for n in range(20)]


@pytest.mark.parametrize("mode", ["", "plain", "no_head"])
def test_the_same_samples(server, mode, capsys):
    server.mode = mode
    assert captions(server.url) == ALL
    if mode == "plain":  # copied once
        assert "ignores ranges" in capsys.readouterr().err
        before = server.count
        sources._copies.clear()
        assert captions(server.url) == ALL
        assert server.count - before <= 3


@pytest.mark.parametrize(
    ("mode", "words"),
    [("elsewhere", None), ("short", "bytes where"), ("no_length", "does not tell its size")],
)
def test_answers_that_are_no_answers(server, mode, words):
    server.mode = mode
    if words is None:  # the index is one block from 0 on; what is read alone lies elsewhere
        with pytest.raises(Exception, match="other bytes than were asked for"):
            captions(server.url)
    else:
        with pytest.raises(UserError, match=words):
            captions(server.url)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, r"refused \(401"), (403, r"refused \(403"), (404, "no such shard"), (410, "no such shard"),
     (400, "answers 400"), (429, "3 tries failed, the last with 429"), (500, "with 500"), (502, "with 502 Bad Gateway"),
     (503, "with 503 Service Unavailable"), (504, "with 504")],
)  # fmt: skip
def test_statuses_are_named(server, status, words):
    server.status = status
    with pytest.raises(UserError, match=words):
        open_index(server.url)
    assert server.count >= (3 if status == 429 or status >= 500 else 1)


def test_busy_servers_are_asked_again(server):
    server.statuses = [503, 429]
    assert captions(server.url) == ALL


def test_a_shard_that_changes_is_a_fault(server):
    shards = Shards([open_index(server.url)])
    server.stamp = '"2"'
    with pytest.raises(Exception, match="changed since it was indexed"):
        shards.read(3)


def test_silence_has_an_end(server, monkeypatch):
    monkeypatch.setattr(web, "SILENT", 0.05)
    monkeypatch.setattr(web, "CONNECT", 0.05)
    monkeypatch.setattr(Handler, "do_HEAD", lambda self: threading.Event().wait(0.5))
    with pytest.raises(UserError, match="no answer in time"):
        open_index(server.url)


def test_a_signature_is_no_part_of_a_shard(server):
    signed = [f"{server.url}?X-Amz-Signature={s}&X-Amz-Expires=9&versionId=3" for s in "ab"]
    first = Shards([open_index(signed[0])])
    asked = server.count
    assert Shards([open_index(signed[1])]).fingerprint == first.fingerprint
    assert server.count == asked + 1  # its size; the sidecar is the same
    assert identity(signed[0]) == f"{server.url}?versionId=3"
    assert identity("https://me:word@host/a.tar?sig=x&se=1&st=2&n=1") == "https://host/a.tar?n=1"
    assert identity("https://host/a.tar?st=2&b=%2F") == "https://host/a.tar?st=2&b=%2F"
    assert identity("abfs://box@account/a.tar") == "abfs://box@account/a.tar"
