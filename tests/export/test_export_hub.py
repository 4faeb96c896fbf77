"""Uploads, against a local stand-in of the Hub's HTTP interface."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import mmclr
from mmclr.errors import UserError
from mmclr.export.card import About
from mmclr.export.commands.hub import main, upload, write
from mmclr.export.origin import Source
from mmclr.models.two_tower import TwoTower
from mmclr.storage.manifest import MANIFEST
from tests import bounds
from tests.export.hub_server import Hub
from tests.exports import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"), names=("model",))


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


def send(hub, *args):
    """Run `mmclr export hub` in a process of its own, whose huggingface_hub talks to the stand-in."""
    command = [sys.executable, "-W", "ignore", "-m", "mmclr.cli", "export", "hub", *map(str, args)]
    return subprocess.run(command, env={**os.environ, **hub.env()}, capture_output=True, text=True, check=False)


def test_an_upload_that_breaks_off_goes_on(checkpoint, hub, tmp_path):
    args = [checkpoint, "me/my-clip", "--private", "--format", "both", "--license", "mit"]
    hub.fail_after = 1
    broken = send(hub, *args)
    assert broken.returncode == 2
    assert "the same command goes on from there" in broken.stderr or "give the command again" in broken.stderr
    assert hub.files["me/my-clip"] == {}
    assert len(hub.objects) == 1
    first = set(hub.objects)
    hub.fail_after, hub.requests = None, []
    done = send(hub, *args)
    assert done.returncode == 0, done.stderr
    sent = {path.rpartition("/")[2] for method, path in hub.requests if method == "PUT"}
    assert len(hub.objects) == 2
    assert sent == set(hub.objects) - first  # what was there is not sent again
    assert hub.private["me/my-clip"]
    files = hub.files["me/my-clip"]
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "processor_config.json",
        "parity.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    } <= files.keys()
    assert files["README.md"].decode().startswith("---\nlibrary_name: transformers\nlicense: mit")
    assert b'from_pretrained("me/my-clip")' in files["README.md"]
    text = json.loads(files["open_clip_config.json"])["model_cfg"]["text_cfg"]
    assert text["hf_tokenizer_name"] == "me/my-clip"
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert TwoTower.load(tmp_path).config.embed == 128


def test_dry_run_shows_every_file_and_sends_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmclr.export.commands.hub.upload", None)
    main([str(checkpoint), "me/my-clip", "--dry-run", "--keep", str(tmp_path / "kept")])
    said = capsys.readouterr().out
    names = {path.name for path in (tmp_path / "kept").iterdir()} - {MANIFEST}  # that one stays here
    assert names >= {"README.md", "model.safetensors", "parity.json"}
    assert all(name in said for name in names)
    assert MANIFEST not in said


def test_what_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="whose. write USER/NAME"):
        main([str(checkpoint), "my-clip"])
    with pytest.raises(UserError, match="not the name of a repository"):
        main([str(checkpoint), "me/my clip"])
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        upload(tmp_path, "me/my-clip")


def test_a_stranger_is_told_to_log_in(hub, tmp_path):
    code = "import sys; from mmclr.export.commands.hub import upload; upload(sys.argv[1], 'me/my-clip')"
    env = {**os.environ, **hub.env(), "HF_TOKEN": "wrong"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True)
    assert "log in with `hf auth login` or set HF_TOKEN" in done.stderr
    assert hub.files == {}


LOAD = """
import json, sys, mmclr
models = [mmclr.load(name, device="cpu") for name in sys.argv[1:]]
print(json.dumps([model.encode_text(["cloud", "music note"]).tolist() for model in models]))
"""
OPEN_CLIP = ("open_clip:ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")  # where open_clip has it


def test_names_are_downloaded_without_their_pickles(checkpoint, hub, tmp_path):
    for repository, format in (("me/my-clip", "transformers"), (OPEN_CLIP[1], "open_clip")):
        write(Source.open(checkpoint), tmp_path / format, repository, About(), format)
        named = {path.name: path.read_bytes() for path in (tmp_path / format).iterdir()}
        hub.files[repository] = {**named, "open_clip_pytorch_model.bin": b"evil", "code.py": b"evil"}
        hub.private[repository] = False
    env = {**os.environ, **hub.env(), "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-W", "ignore", "-c", LOAD, "me/my-clip", OPEN_CLIP[0]]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = mmclr.load(checkpoint).encode_text(["cloud", "music note"])
    for found in json.loads(done.stdout.splitlines()[-1]):
        np.testing.assert_allclose(found, wanted, atol=bounds.bound(terms=16))
    asked = {path.rpartition("/")[2] for method, path in hub.requests if method == "GET"}
    assert asked >= {"model.safetensors", "open_clip_model.safetensors"}
    assert not asked & {"open_clip_pytorch_model.bin", "code.py"}
    hub.requests.clear()
    offline = subprocess.run(command, env={**env, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert offline.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]  # from the cache
    assert hub.requests == []
