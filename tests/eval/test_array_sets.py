"""Evaluations of a model of arrays: folders of classes and shards, by the suites of images."""

import numpy as np
import pytest
from mmclr.data_tools.commands.curate import cluster
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets import files
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import robustness, zero_shot
from mmclr.eval.suites.retrieval import retrieval

from mmclr.errors import UserError
from tests.data.arrays import encoded, series
from tests.data.made import write_tar
from tests.exports import write_checkpoint

IMAGE = {"layers": 1, "array": {"channels": 3, "length": 12, "patch": 4}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("arrays") / "run", {"preset": "icons", "image": IMAGE})


@pytest.fixture(scope="module")
def model(run):
    return Embedder.load(run, device="cpu", workers=1)


@pytest.fixture
def folder(tmp_path):
    """Four arrays of each of two classes."""
    for number in range(8):
        place = tmp_path / ("walking", "running")[number % 2]
        place.mkdir(exist_ok=True)
        np.save(place / f"{number}.npy", series(8 + number, 3, seed=number))
    return tmp_path


def test_a_folder_of_classes(model, folder):
    data = files.folder(folder)
    assert data.classnames == ["running", "walking"]
    result = zero_shot.run(model, data)
    x, y = model.images(data).images, model.texts(["running", "walking"])
    expected = ((x @ y.T).argmax(1) == data.labels).float().mean().item()
    assert result.metrics["acc1"] == pytest.approx(expected)


def test_shards_of_arrays_and_one_that_cannot_be_used(model, tmp_path):
    arrays = [encoded(series(6 + n, 3, seed=n)) for n in range(12)] + [encoded(series(6, 2))]
    named = [[(f"{n:03d}.npy", x), (f"{n:03d}.txt", f"series {n}".encode())] for n, x in enumerate(arrays)]
    path = write_tar(tmp_path / "0.tar", [member for pair in named for member in pair])
    result = retrieval.run(model, open_set(str(path)))
    assert dict(result.skipped) == {"bad_array": 1}
    assert len(model.images(open_set(str(path))).images) == 12


def test_corruptions_are_of_photographs(model, folder):
    with pytest.raises(UserError, match="corruptions are made of RGB images"):
        robustness.run(model, files.folder(folder))


def test_they_are_clustered(run, tmp_path, capsys):
    members = [[(f"{n:03d}.npy", encoded(series(12, 3, seed=n))), (f"{n:03d}.txt", b"x")] for n in range(12)]
    path = write_tar(tmp_path / "0.tar", [member for pair in members for member in pair])
    cluster.main([str(path), "--model", str(run), "--k", "3", "--device", "cpu"])
    assert "12" in capsys.readouterr().out
