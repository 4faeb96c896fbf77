"""A stand-in of the Hugging Face Hub: as much of its HTTP interface as an upload and a download use."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Repositories in memory. `files` is {repository: {path: bytes}}; `requests` is what was asked, in order."""

    def __init__(self, fail_after=None, token="secret"):
        self.files, self.objects, self.private, self.requests = {}, {}, {}, []
        self.lock = threading.Lock()
        self.fail_after, self.token = fail_after, token  # uploads of objects after which the server breaks off
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def env(self):
        """The environment in which huggingface_hub talks to this server."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


class Handler(BaseHTTPRequestHandler):
    hub = None
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.hub.requests.append(("POST", self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("authorization") != f"Bearer {self.hub.token}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            large = (".safetensors", ".onnx")
            named = [
                {
                    "path": f["path"],
                    "shouldIgnore": False,
                    "oid": None,
                    "uploadMode": "lfs" if f["path"].endswith(large) else "regular",
                }
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": named})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        if "/commit/" in self.path:
            return self.commit([json.loads(line) for line in body.splitlines()])
        return self.answer({"error": "not here"}, 404)

    def do_PUT(self):
        self.hub.requests.append(("PUT", self.path))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        with self.hub.lock:  # uploads come side by side
            gone = self.hub.fail_after is not None and len(self.hub.objects) >= self.hub.fail_after
            if not gone:
                self.hub.objects[oid] = data
        return self.answer({"error": "gone"}, 400) if gone else self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.requests.append((self.command, self.path))
        path = unquote(self.path).partition("?")[0]
        if "/resolve/" in path:
            return self.resolve(*path[1:].split("/resolve/"))
        for repository, files in self.hub.files.items():
            if path.startswith(f"/api/models/{repository}/tree/"):
                return self.answer([entry(name, data) for name, data in files.items()])
            if path.startswith(f"/api/models/{repository}"):
                siblings = [{"rfilename": name} for name in files]
                return self.answer(
                    {
                        "id": repository,
                        "sha": "1" * 40,
                        "siblings": siblings,
                        "tags": [],
                        "private": self.hub.private[repository],
                        "downloads": 0,
                    }
                )
        return self.answer({"error": "not found"}, 404)

    def resolve(self, repository, rest):
        data = self.hub.files.get(repository, {}).get(rest.partition("/")[2])
        if data is None:
            return self.answer({"error": "Entry not found"}, 404)
        etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": "1" * 40}
        return self.send(data, 200, "application/octet-stream", etag)

    def create(self, body):
        name = f"{body['organization']}/{body['name']}"
        if name in self.hub.files:
            return self.answer({"url": f"{self.hub.url}/{name}", "error": "exists"}, 409)
        self.hub.files[name], self.hub.private[name] = {}, body.get("visibility") == "private"
        return self.answer({"url": f"{self.hub.url}/{name}"})

    def batch(self, body):
        objects = []
        for each in body["objects"]:
            if each["oid"] not in self.hub.objects:
                each = {**each, "actions": {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}}}
            objects.append(each)
        return self.answer({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def commit(self, lines):
        repository = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[repository][value["path"]] = self.hub.objects[value["oid"]]
        return self.answer({"commitUrl": f"{self.hub.url}/{repository}/commit/{'1' * 40}", "commitOid": "1" * 40})

    def answer(self, tree, status=200, kind="application/json"):
        self.send(json.dumps(tree).encode(), status, kind, {})

    def send(self, body, status, kind, headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def entry(name, data):
    """A file as the Hub lists it."""
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
