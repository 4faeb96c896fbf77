"""A learnt pool of several images in exports: a model of its own, which other libraries run, or a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmclr
from mmclr.errors import UserError
from mmclr.export import image_pool
from mmclr.export.commands import onnx, open_clip, transformers, verify
from mmclr.export.origin import Source
from mmclr.models.pooling.pool import in_slots
from tests.exports import ICONS, ROUNDING, alone, write_checkpoint

ALONE = """
import torch
from transformers import AutoModel
pool = AutoModel.from_pretrained(sys.argv[1] + "/image_pool", trust_remote_code=True)
x, mask = torch.tensor(json.loads(sys.argv[2])), torch.tensor(json.loads(sys.argv[3]))
with torch.no_grad():
    print(json.dumps(pool(x, mask).tolist()))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Source.open(write_checkpoint(tmp_path_factory.mktemp("run"), {**ICONS, "image_pool": "attention"}))


def features(source):
    """Embeddings of six images, of three items."""
    x = torch.randn(6, source.model.config.embed, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(x, dim=1), torch.tensor([1, 2, 3])


def test_transformers_loads_it_alone(source, tmp_path):
    """Without mmclr, from features of any length, and with something in places where no image is."""
    assert transformers.write(source, tmp_path / "out")["pooled_features"] < 1e-6
    assert "AutoModel.from_pretrained" in (tmp_path / "out/README.md").read_text().split("## Several images")[1]
    x, counts = features(source)
    there = torch.arange(3) < counts[:, None]
    given = in_slots(3 * x, counts, 3) + (~there)[..., None]
    found = alone(ALONE, tmp_path / "out", json.dumps(given.tolist()), json.dumps(there.tolist()), cwd=tmp_path)
    torch.testing.assert_close(torch.tensor(found), source.model.pool(x, counts), atol=ROUNDING, rtol=0)


def test_what_is_exported_is_read_again(source, tmp_path):
    transformers.write(source, tmp_path / "out")
    again = mmclr.load(tmp_path / "out").model
    x, counts = features(source)
    assert torch.equal(again.pool(x, counts), source.model.pool(x, counts))


def test_onnxruntime_runs_it(source, tmp_path):
    pytest.importorskip("onnxruntime")
    assert onnx.write(source, tmp_path / "out")["pooled_features"] < 1e-6
    assert "image_pool.onnx" in (tmp_path / "out/README.md").read_text()
    x, counts = features(source)
    there = torch.arange(4) < counts[:, None]  # another number of places than it was traced with
    found = onnx.load(tmp_path / "out").pool(in_slots(x, counts, 4), there)
    torch.testing.assert_close(found, source.model.pool(x, counts), atol=ROUNDING, rtol=0)


def test_another_pool_is_told(source, tmp_path):
    """The parity check sees it: weights of which one is another are no export of this model."""
    transformers.write(source, tmp_path / "out")
    path = tmp_path / "out/image_pool/model.safetensors"
    weights = load_file(path)
    weights["image_pool.score.weight"] = -weights["image_pool.score.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="pooled_features"):
        verify.verify(tmp_path / "out", source.folder)


def test_open_clip_has_no_place_for_it(source, tmp_path):
    with pytest.raises(UserError, match=r"open_clip has no place for the attention that pools .*`mmclr export onnx`"):
        open_clip.write(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["mean", "first"])
def test_a_pool_without_weights_is_a_word(kind, tmp_path):
    """Which mmclr reads again from any folder, and nobody else needs to know."""
    run = write_checkpoint(tmp_path / "run", {**ICONS, "image_pool": kind}, names=("model",))
    source = Source.open(run)
    assert not image_pool.is_learnt(source.model)
    for form in (transformers, open_clip):
        folder = tmp_path / form.__name__
        assert "pooled_features" not in form.write(source, folder)
        assert mmclr.load(folder).model.config.image_pool == kind
        assert (folder / "image_pool").exists() == (kind == "first")
