"""Models of grey and of five bands, in every format that holds them; those that do not say why."""

import json

import numpy as np
import pytest
import torch

import mmclr
from mmclr.errors import UserError
from mmclr.export import import_model, parity
from mmclr.export.commands import onnx, open_clip, transformers, verify
from mmclr.export.origin import Source
from mmclr.models.two_tower import TwoTower
from tests.exports import ROUNDING, write_checkpoint

SIZE = 32
WINDOW = {"low": 0, "high": 4095}
KINDS = {
    "grey": {"channels": 1, "intensity": WINDOW, "mean": [0.3], "std": [0.2]},
    "five": {"channels": 5, "intensity": WINDOW, "mean": [0.1, 0.2, 0.3, 0.4, 0.5], "std": [0.2, 0.1, 0.3, 0.2, 0.1]},
    "rgb16": {"intensity": {"low": 0, "high": 65535}},
}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    """A run's folder with one checkpoint of a small model, by what its images are."""
    folder = tmp_path_factory.mktemp(request.param)
    return write_checkpoint(folder, {"preset": "icons", "image": {"layers": 2, **KINDS[request.param]}}), request.param


def stored(kind, size=(40, 50), seed=0):
    """Numbers of 12 bits as a camera stores them, uint16 [C, H, W]."""
    channels = KINDS[kind].get("channels", 3)
    return np.random.default_rng(seed).integers(0, 4096, (channels, *size), dtype=np.uint16)


def test_transformers_holds_it_and_its_processor_says_how(run, tmp_path):
    source, kind = run
    folder = tmp_path / "out"
    found = transformers.write(Source.open(source), folder)
    assert {"image_features", "text_features", "pixels"} <= found.keys()
    said = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    channels = KINDS[kind].get("channels", 3)
    assert said["mmclr"] == {"channels": channels, "intensity": KINDS[kind]["intensity"]}
    assert (said["do_convert_rgb"], said["do_rescale"], len(said["image_mean"])) == (False, False, channels)
    assert json.loads((folder / "config.json").read_text())["vision_config"]["num_channels"] == channels
    card = (folder / "README.md").read_text()
    assert f"float32 [{channels}, H, W] in [0, 1]" in card
    assert f"{channels} channels" in card
    assert "images=[pixels]" in card
    verify.verify_files(folder)
    assert verify.verify(folder, source)["image_features"] < ROUNDING


def test_an_export_computes_from_stored_numbers_what_the_run_does(run, tmp_path):
    """Loaded again, and by transformers alone after the formula of a window in numpy."""
    import transformers as library

    source, kind = run
    folder = tmp_path / "out"
    transformers.write(Source.open(source), folder)
    ours, again = mmclr.load(source), mmclr.load(folder)
    assert again.model.config.image == ours.model.config.image
    images = [stored(kind), stored(kind, (32, 32), seed=1).transpose(1, 2, 0)]
    expected = ours.encode_image(images)
    np.testing.assert_array_equal(again.encode_image(images), expected)
    low, high = KINDS[kind]["intensity"].values()
    pixels = ((images[1].transpose(2, 0, 1).astype(np.float64) - low) / (high - low)).astype(np.float32)
    model, processor = (kind.from_pretrained(folder) for kind in (library.AutoModel, library.AutoProcessor))
    with torch.no_grad():
        out = model.get_image_features(**processor(images=[pixels], return_tensors="pt"))
    theirs = parity.unit(transformers.pooled(out)).numpy()
    assert np.abs(theirs[0] - expected[1]).max() < ROUNDING


def test_onnx_takes_as_many_channels(run, tmp_path):
    source, kind = run
    if kind != "five":
        pytest.skip("a graph takes seconds to write, and asks for the number alone")
    found = onnx.write(Source.open(source), tmp_path / "out")
    assert found["image_features"] < 1e-4
    assert f"[n, {KINDS[kind].get('channels', 3)}, H, W]" in (tmp_path / "out" / "README.md").read_text()
    assert verify.verify(tmp_path / "out", source)["image_features"] < 1e-4


def test_open_clip_cannot_hold_it(run, tmp_path):
    source, _ = run
    with pytest.raises(UserError, match="made for RGB images of 8 bits, and its config has no key for"):
        open_clip.write(Source.open(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_is_imported_back(run, tmp_path):
    source, _ = run
    transformers.write(Source.open(source), tmp_path / "out")
    found = import_model.write(tmp_path / "out", tmp_path / "back")
    assert found["image_features"] < ROUNDING
    assert TwoTower.load(tmp_path / "back").config.image == TwoTower.load(tmp_path / "out").config.image


def test_a_step_of_one_in_4096_is_seen(run):
    source, kind = run
    model = mmclr.load(source)
    one, other = stored(kind, (SIZE, SIZE)), stored(kind, (SIZE, SIZE))
    other[0, 20, 20] ^= 1
    made = [model.medium.plain(model.medium.given(image)) for image in (one, other)]
    width = KINDS[kind]["intensity"]["high"]
    assert 0 < np.abs(made[0] - made[1]).max() <= 1.001 / width


def test_what_cannot_be_encoded_is_a_sentence(run):
    source, kind = run
    model, channels = mmclr.load(source), KINDS[kind].get("channels", 3)
    with pytest.raises(UserError, match=rf"image 1: .*model\.image\.channels={channels}"):
        model.encode_image([stored(kind), np.zeros((7, 20, 20), np.uint16)])
    holes = stored(kind).astype(np.float32)
    holes[0, 3, 3] = np.nan
    with pytest.raises(UserError, match="image 0: .*NaN"):
        model.encode_image(holes)
