"""The tools on shards of arrays: what is wrong is listed, what there is is counted and measured, and shown."""

import json
import math

import numpy as np
import pytest
import yaml
from mmclr.data_tools.commands.inspect import peek, stats, verify
from PIL import Image

from mmclr.config import check
from mmclr.errors import UserError
from mmclr.models.config import ImageConfig
from tests.data.arrays import encoded, series
from tests.data.made import write_tar

KIND = "{channels: 2, length: 16}"


def shard(path, arrays):
    members = [[(f"{n:04d}.npy", encoded(x)), (f"{n:04d}.txt", b"walking")] for n, x in enumerate(arrays)]
    return str(write_tar(path, [member for pair in members for member in pair]))


def test_verify_lists_what_cannot_be_used(tmp_path, capsys):
    good = [series(10 + n, seed=n) for n in range(5)]
    urls = shard(tmp_path / "0.tar", [*good, series(9, 3), [[0, math.nan]], np.zeros((0, 2))])
    assert verify.main([urls, "--array", KIND, "--workers", "0"]) == 1
    said = capsys.readouterr().out
    for part in (
        "3 samples: the array cannot be used",
        "an array [9, 3], and the model reads [time, 2]",
        "nan at step 0, channel 1",
        "[0, 2]: it has no steps",
    ):
        assert part in said
    assert verify.main([shard(tmp_path / "1.tar", good), "--array", KIND, "--workers", "0"]) == 0
    assert "all of them can be used" in capsys.readouterr().out


def test_stats_count_steps_and_measure_channels(tmp_path, capsys):
    """Each array counts the same, whatever its length; of a longer one the middle is measured, as the model sees it."""
    arrays = [series(8, seed=1) * [3, 5] + [1e4, -7], series(40, seed=2) * 1e-7, series(16, seed=3)]
    urls, out = shard(tmp_path / "0.tar", arrays), tmp_path / "mine.yaml"
    stats.main([urls, "--array", KIND, "--write", str(out)])
    said = capsys.readouterr().out
    assert "steps: 8 to 40" in said
    assert "channels: 2 to 2" in said
    assert "npy float32 2, npy float64 1" in said
    image = yaml.safe_load(out.read_text())["model"]["image"]
    seen = [np.float32(arrays[0]), np.float32(arrays[1][12:28]), arrays[2]]
    mean = np.mean([x.astype(np.float64).mean(0) for x in seen], 0)
    square = np.mean([(x.astype(np.float64) ** 2).mean(0) for x in seen], 0)
    np.testing.assert_allclose(image["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(image["std"], np.sqrt(square - mean**2), rtol=1e-5)
    made = check(ImageConfig, image)
    assert (made.array.channels, made.array.length) == (2, 16)


def test_peek_draws_them(tmp_path):
    urls = shard(tmp_path / "0.tar", [series(30, seed=n) for n in range(3)])
    peek.main([urls, str(tmp_path / "sheet.png"), "--array", KIND])
    assert len(np.unique(np.asarray(Image.open(tmp_path / "sheet.png")).reshape(-1, 3), axis=0)) > 3
    peek.main([urls, str(tmp_path / "sheet.html"), "--array", KIND])
    assert "walking" in (tmp_path / "sheet.html").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--array", "6"], "write it as '{channels: 6, length: 100}'"),
        (["--array", "{channels: 6}"], "length"),
        (["--array", KIND, "--channels", "1"], "arrays have neither --channels nor --intensity"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, options, says):
    urls = shard(tmp_path / "0.tar", [series(8)])
    with pytest.raises(UserError, match=says):
        verify.main([urls, *options])


def test_shards_of_arrays_are_no_photographs(tmp_path):
    with pytest.raises(UserError, match="no usable sample") as caught:
        verify.main([shard(tmp_path / "0.tar", [series(8)]), "--workers", "0"])
    assert "npy" in str(caught.value)


def test_json_for_scripts(tmp_path, capsys):
    stats.main([shard(tmp_path / "0.tar", [series(8), series(9)]), "--array", KIND, "--json"])
    found = json.loads(capsys.readouterr().out)["looked_into"]["numbers"]
    assert found["steps"]["mean"] == 8.5
