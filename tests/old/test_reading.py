"""What cbe6e2c wrote is read: a checkpoint with its config and cluster labels, an export, embeddings; see make.py."""

import dataclasses
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmclr.eval.commands.compare import compare
from mmclr.eval.result import Result
from mmclr.eval.suites.retrieval.retrieval import main as retrieval
from safetensors.torch import load_file

import mmclr
from mmclr.config import load
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train

OLD = Path(__file__).parent / "cbe6e2c"
SHARDS = "shards/{00000..00001}.tar"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in a copy, in which the paths of the old config lead somewhere."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")


def rows(path):
    """Return a log's rows by step."""
    return {row["step"]: row for row in map(json.loads, Path(path).read_text().splitlines())}


def test_a_checkpoint_with_its_config_and_cluster_labels_goes_on():
    """The steps after it have the losses that the old code had there: teacher, heads, state per sample and all."""
    before = rows("run/log.jsonl")
    run = load(RunConfig, "run/checkpoints/step-00000004/config.yaml")
    train(run, quiet=True)
    after = rows("run/log.jsonl")
    assert set(after) == {1, 2, 3, 4, 5, 6}
    for step in (5, 6):
        for name in ("loss", "clip", "directpred", "isogclr", "mlcd", "scale", "lr"):
            assert after[step][name] == pytest.approx(before[step][name], rel=1e-4), (step, name)


def test_an_export_computes_what_it_computed():
    """The rows that the old evaluation kept of the captions are what the export's text tower says today."""
    kept = load_file(next(Path("cache").glob("*-text-*/*.safetensors")))
    found = dict(zip((bytes(d) for d in kept["digests"].numpy()), kept["rows"]))
    texts = [text for text in captions() if digest(text) in found]
    assert len(texts) == len(found) == 24
    told = mmclr.load("export", device="cpu").encode_text(texts)
    np.testing.assert_allclose(told, torch.stack([found[digest(text)] for text in texts]).numpy(), atol=1e-5)


def test_embeddings_that_an_evaluation_kept_are_used(monkeypatch, capsys):
    """The result is the same, and no tower computes anything."""
    for name in ("encode_image", "encode_text"):
        monkeypatch.setattr(TwoTower, name, lambda *_: pytest.fail("the towers computed what was kept"))
    retrieval(["export", "--data", SHARDS, "--cache", "cache", "--out", "again.json", "--examples", "0"])
    old, new = (json.loads(Path(name).read_text()) for name in ("result.json", "again.json"))
    assert new["metrics"] == pytest.approx(old["metrics"])
    assert new["n"] == old["n"]


def captions():
    """Return the captions of the shards."""
    for path in sorted(Path("shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            yield from (tar.extractfile(m).read().decode() for m in tar if m.name.endswith(".txt"))


def digest(text):
    """Return the name under which a text's embedding is kept."""
    return hashlib.sha256(text.encode()).digest()[:16]


def test_a_result_is_paired_with_one_of_today():
    """The images that both were measured on are told by a hash that had another name."""
    old = Result.load("result.json")
    today = Result.of(old.measurements, dataset=old.dataset, model="m", task=old.task, hashes=old.hashes)
    assert set(old.hashes) >= {"images", "annotations"}
    today.save("today.json")
    assert json.loads(Path("today.json").read_text())["hashes"]["images"] == old.hashes["images"]
    assert {found.difference for found in compare(old, Result.load("today.json"))} == {0.0}
    other = dataclasses.replace(today, hashes={**old.hashes, "images": "x"})
    with pytest.raises(UserError, match="the two results have other images"):
        compare(old, other)
