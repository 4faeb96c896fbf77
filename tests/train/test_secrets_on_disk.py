"""No file that a run, its evaluation, export, report or comparison leaves has the secret of the address it read."""

import functools
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
FORMS = {
    "signed": ("http://127.0.0.1:{port}/a.tar?X-Amz-Credential=S3CRET&X-Amz-Signature=S3CRET", ()),
    "user": ("http://me:S3CRET@127.0.0.1:{port}/a.tar?sv=1&sig=S3CRET#S3CRET", ()),
    "pipe": ("pipe:cat {folder}/a.tar #Authorization: Bearer S3CRET", ("data.allow_pipe=true",)),
}


@pytest.fixture
def served(tmp_path):
    """A shard, and a server of it that answers ranges whatever stands behind the path."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        for number in range(40):
            for name, member in ((f"{number}.png", png(number)), (f"{number}.txt", f"image {number}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(member)
                archive.addfile(info, io.BytesIO(member))
    data = (folder / "a.tar").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if not self.path.startswith("/a.tar?"):
                self.send_error(403)
                return
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            part = data[int(first or 0) : int(last) + 1 if last else None]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            if first:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(part)

        do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server.server_port
    server.shutdown()
    server.server_close()


def png(number):
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (number * 37 % 256, number * 91 % 256, number * 17 % 256)).save(out, "PNG")
    return out.getvalue()


def mmclr(cwd, *args, fails=False):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "mmclr.cli", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) != fails, done.stderr
    (cwd / f"said-{len(list(cwd.glob('said-*')))}.txt").write_text(done.stdout + done.stderr)  # a file, too
    return done


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_no_file_has_the_secret(form, served, tmp_path):
    folder, port = served
    url, more = FORMS[form]
    url = url.format(port=port, folder=folder)
    here = tmp_path / "here"
    here.mkdir()
    call = functools.partial(mmclr, here)
    shards = url if form != "pipe" else folder / "a.tar"  # commands are for training alone
    train = ["train", "debug.yaml", f"data.train='{url}'", "out=run", *more]
    call(*train, "steps=2", "--dry-run")
    call("doctor", "debug.yaml", f"data.train='{url}'", "out=run", "steps=2", *more)
    call(*train, "steps=2")
    call(*train, "steps=4")
    call("data", "verify", shards, "--json", "verify.json")
    call("data", "stats", shards)
    call("data", "peek", shards, "peek.html")
    call("eval", "retrieval", "run", "--data", shards, "--out", "result.json")
    call("report", "run", "result.json", "--out", "report.html")
    call("export", "transformers", "run", "exported", "--results", "result.json")
    call("compare", "debug.yaml", f"data.train='{url}'", *more, "--budget", "steps=2", "--seeds", "1", "--test", shards)
    call("data", "verify", f"{url.split('?')[0]}x?sig=S3CRET" if form != "pipe" else f"{url}", fails=True)
    files = [path for path in here.rglob("*") if path.is_file()]
    assert len(files) > 40
    leaks = [str(path.relative_to(here)) for path in files if b"S3CRET" in path.read_bytes() or "S3CRET" in path.name]
    assert not leaks
    stored = json.dumps((here / "exported" / "README.md").read_text())
    assert "a.tar" in stored  # what it was trained on is told
