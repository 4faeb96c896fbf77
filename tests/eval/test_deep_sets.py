"""Evaluations of models of deep images: of a sample they take the member that training takes, and what lies beside."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.files import folder, table
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import robustness
from mmclr.eval.suites.retrieval import retrieval
from PIL import Image

import mmclr
from mmclr.errors import UserError
from tests.data.deep import bands_tiff, npy, png16
from tests.exports import write_checkpoint

N, SIZE = 6, 32
BANDS = {"channels": 5, "intensity": {"low": "json:low", "high": "json:high"}}


def model(place, image):
    return write_checkpoint(place, {"preset": "icons", "image": {"layers": 1, **image}})


def deep(i, size=SIZE):
    return np.random.default_rng(i).integers(0, 4096, (5, size, size), dtype=np.uint16)


def shard(path, high=4095, spoil=()):
    """Samples of five bands as .npy, with their range in the json, beside a thumbnail as .png."""
    with tarfile.open(path, "w") as tar:
        for i in range(N):
            bands = deep(i).astype(np.float32)
            if i in spoil:
                bands[0, 0, 0] = np.nan
            numbers, png = io.BytesIO(), io.BytesIO()
            np.save(numbers, bands)
            Image.fromarray((deep(i)[:3] >> 4).astype(np.uint8).transpose(1, 2, 0)).save(png, "PNG")
            parts = {"png": png.getvalue(), "npy": numbers.getvalue(), "txt": f"icon {i}".encode()}
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


@pytest.mark.parametrize("ending", ["tif", "npy", "png"])
def test_folders_and_tables_of_deep_images_are_read_with_their_ranges(tmp_path, ending):
    """ROOT/CLASS/KEY.tif with KEY.json beside it, and a table of the same files, give the rows of the shard."""
    encode = {"tif": bands_tiff, "npy": npy, "png": png16}[ending]
    lines, bands = ["filepath,title"], 4
    for i in range(N):
        file = tmp_path / "set" / f"class {i % 2}" / f"{i}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(deep(i)[:bands]))
        file.with_suffix(".json").write_text(json.dumps({"low": 0, "high": 4000 + i}))
        lines.append(f"{file.relative_to(tmp_path / 'set')},icon {i}")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    embedder = Embedder.load(model(tmp_path / "model", {**BANDS, "channels": bands}))
    rows = embedder.images(folder(tmp_path / "set")).images.numpy()
    told = embedder.images(table(tmp_path / "set.csv", images=tmp_path / "set")).images.numpy()
    files = [tmp_path / "set" / f"class {i % 2}" / f"{i}.{ending}" for i in range(N)]
    expected = mmclr.load(tmp_path / "model").encode_image(files)
    np.testing.assert_allclose(rows, expected[[0, 2, 4, 1, 3, 5]], atol=1e-6)
    np.testing.assert_allclose(told, expected, atol=1e-6)
    assert np.abs(expected - expected[0]).max() > 1e-3
    files[3].with_suffix(".json").unlink()
    found = embedder.images(replace(folder(tmp_path / "set"), max_faults=1.0))
    assert found.data.skipped == {"no_range": 1}
