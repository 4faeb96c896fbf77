"""A model of arrays leaves for transformers, with its class, and for ONNX; open_clip has no place for it."""

import json

import numpy as np
import pytest
import torch

import mmclr
from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.commands import onnx, open_clip, transformers, verify
from mmclr.export.origin import Source
from mmclr.models.two_tower import TwoTower
from tests import bounds
from tests.exports import alone, write_checkpoint

SIGNALS = {"array": {"channels": 3, "length": 12, "patch": 4}, "mean": [1.0, -2.0, 0.5], "std": [2.0, 0.5, 3.0]}
ROWS = {"array": {"channels": 5, "length": 1}}
KINDS = {"signals": SIGNALS, "rows": ROWS}

READ_ALONE = """
import numpy as np, torch
from transformers import AutoModel, AutoTokenizer
folder, captions = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = (auto.from_pretrained(folder, trust_remote_code=True) for auto in (AutoModel, AutoTokenizer))
arrays = [np.load(path) for path in sys.argv[3:]]
texts = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    out = model(array_values=model.prepare(arrays), **texts)
print(json.dumps({"array": out.array_embeds.tolist(), "text": out.text_embeds.tolist(),
                  "logits": out.logits_per_array.tolist(), "turned": out.logits_per_text.tolist()}))
"""


def tree(kind):
    return {"preset": "icons", "image": {"layers": 2, **KINDS[kind]}}


@pytest.fixture(scope="module", params=[("signals", True), ("rows", False)], ids=["signals", "rows"])
def exported(request, tmp_path_factory):
    kind, bias = request.param
    folder = tmp_path_factory.mktemp(kind)
    run = write_checkpoint(folder / "run", tree(kind), bias)
    return run, folder / "out", transformers.write(Source.open(run), folder / "out")


def arrays(run, tmp_path):
    examples = parity.examples(Source.open(run).model.config.image)
    paths = [tmp_path / f"{n}.npy" for n in range(len(examples))]
    for path, x in zip(paths, examples):
        np.save(path, x)
    return paths


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=bounds.bound(terms=512), rtol=0)


def test_a_fresh_process_gets_the_same(exported, tmp_path):
    run, folder, differences = exported
    assert max(differences["image_features"], differences["text_features"]) <= bounds.bound(terms=512)
    assert differences["pixels"] == differences["token_ids_that_differ"] == 0
    paths, model = arrays(run, tmp_path), mmclr.load(run, device="cpu")
    theirs = alone(READ_ALONE, folder, json.dumps(parity.HARD_STRINGS), *paths, cwd=tmp_path)
    x, y = model.encode_array(paths), model.encode_text(parity.HARD_STRINGS)
    close(theirs["array"], x)
    close(theirs["text"], y)
    logits = torch.tensor(theirs["logits"])
    torch.testing.assert_close(logits, torch.from_numpy(model.scale * x @ y.T + model.bias), atol=1e-3, rtol=0)
    assert torch.equal(logits.T, torch.tensor(theirs["turned"]))


def test_the_folder_is_a_model_here_too(exported, tmp_path):
    run, folder, _ = exported
    ours, there = TwoTower.load(run / "checkpoints" / "step-00000001" / "average"), TwoTower.load(folder)
    assert there.config == ours.config
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in ours.state_dict().items())
    paths = arrays(run, tmp_path)
    np.testing.assert_array_equal(mmclr.load(folder).encode_array(paths), mmclr.load(run).encode_array(paths))
    assert max(verify.verify(folder, run).values()) <= 1e-5


def test_the_card_says_how_it_is_used(exported):
    _, folder, _ = exported
    card = (folder / "README.md").read_text()
    assert "An array-text model" in card
    assert "model.prepare" in card
    assert "[time, 3]" in card or "rows [5]" in card
    assert "Image.open" not in card


def test_what_is_no_such_array_is_said(exported):
    from transformers import AutoModel

    _, folder, _ = exported
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="array 0 has the shape"):
        model.prepare([np.zeros((4, 9))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_graphs_give_the_same(kind, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra mmclr[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra mmclr[onnx] is not installed")
    run = write_checkpoint(tmp_path / "run", tree(kind))
    differences = onnx.write(Source.open(run), tmp_path / "out")
    assert max(differences["image_features"], differences["text_features"]) <= bounds.bound(terms=512)
    c = Source.open(run).model.config.image
    peer, x = onnx.load(tmp_path / "out"), parity.prepare(parity.examples(c), c)
    close(peer.image(x[1:]), mmclr.load(run).encode_array(arrays(run, tmp_path)[1:]))
    assert "array_values are" in (tmp_path / "out" / "README.md").read_text()


def test_where_there_is_no_place_for_it(tmp_path):
    source = Source.open(write_checkpoint(tmp_path / "run", tree("signals")))
    with pytest.raises(UserError, match="open_clip has no tower for arrays"):
        open_clip.write(source, tmp_path / "open_clip")
    with pytest.raises(UserError, match="--halves writes the two towers of a CLIPModel"):
        transformers.write(source, tmp_path / "halves", halves=True)
    assert not (tmp_path / "open_clip").exists()
    assert not (tmp_path / "halves").exists()
