"""Evaluations of models of deep images: of a sample they take the member that training takes, and what lies beside."""

import io
import json
import tarfile

import numpy as np
import pytest
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import robustness
from mmclr.eval.suites.retrieval import retrieval
from PIL import Image

import mmclr
from mmclr.errors import UserError
from tests.exports import write_checkpoint

N, SIZE = 6, 32
BANDS = {"channels": 5, "intensity": {"low": "json:low", "high": "json:high"}}


def model(folder, image):
    return write_checkpoint(folder, {"preset": "icons", "image": {"layers": 1, **image}})


def deep(i, size=SIZE):
    return np.random.default_rng(i).integers(0, 4096, (5, size, size), dtype=np.uint16)


def shard(path, high=4095, spoil=()):
    """Samples of five bands as .npy, with their range in the json, beside a thumbnail as .png."""
    with tarfile.open(path, "w") as tar:
        for i in range(N):
            bands = deep(i).astype(np.float32)
            if i in spoil:
                bands[0, 0, 0] = np.nan
            npy, png = io.BytesIO(), io.BytesIO()
            np.save(npy, bands)
            Image.fromarray((deep(i)[:3] >> 4).astype(np.uint8).transpose(1, 2, 0)).save(png, "PNG")
            parts = {"png": png.getvalue(), "npy": npy.getvalue(), "txt": f"icon {i}".encode()}
            parts["json"] = json.dumps({"low": 0, "high": high}).encode()
            for kind, data in parts.items():
                member = tarfile.TarInfo(f"{i}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


def test_a_deep_model_takes_the_numbers_and_a_photo_model_the_thumbnail(tmp_path):
    data = open_set(shard(tmp_path / "a.tar"))
    five, rgb = model(tmp_path / "five", BANDS), model(tmp_path / "rgb", {})
    plainly = model(tmp_path / "plainly", {**BANDS, "intensity": {"low": 0, "high": 4095}})
    rows = Embedder.load(five).pictures(data).images.numpy()
    expected = mmclr.load(plainly).encode_image([deep(i) for i in range(N)])
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    seen = Embedder.load(rgb).pictures(data).images.numpy()
    photos = [(deep(i)[:3] >> 4).astype(np.uint8) for i in range(N)]
    np.testing.assert_allclose(seen, mmclr.load(rgb).encode_image(photos), atol=1e-6)


def test_another_range_beside_the_same_numbers_is_another_image(tmp_path):
    embedder = Embedder.load(model(tmp_path / "five", BANDS), cache=tmp_path / "cache")
    rows = [embedder.pictures(open_set(shard(tmp_path / f"{high}.tar", high))).images for high in (4095, 8190)]
    assert (rows[0] - rows[1]).abs().max() > 1e-3


def test_retrieval_counts_what_has_holes(tmp_path):
    embedder = Embedder.load(model(tmp_path / "five", BANDS))
    found = retrieval.run(embedder, open_set(shard(tmp_path / "a.tar", spoil=(2,)), max_faults=0.5), relation="pair")
    assert found.n["image_retrieval_recall@1"] == N - 1
    assert sum(found.skipped.values()) == 1


def test_corruptions_are_of_photographs(tmp_path):
    embedder = Embedder.load(model(tmp_path / "five", BANDS))
    data = open_set(shard(tmp_path / "a.tar"), label="json:high")
    with pytest.raises(UserError, match="corruptions are made of RGB images of 8 bits"):
        robustness.run(embedder, data)
