"""An export loads in a process that knows nothing of mmclr, and gives the same features there."""

import json
import subprocess
import sys

import pytest
import torch

from mmclr.config import check
from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.transformers import export, main
from mmclr.models.clip import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer

READ_ALONE = """
import json, sys
sys.modules["mmclr"] = None  # importing it is an error
import numpy as np, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
folder, captions = sys.argv[1], json.loads(sys.argv[2])
model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
picture = Image.fromarray((np.arange(40 * 50 * 3) % 251).astype(np.uint8).reshape(40, 50, 3))
inputs = processor(text=captions, images=picture, return_tensors="pt", padding=True, truncation=True)
with torch.no_grad():
    out = model(**inputs)
print(json.dumps({"kind": type(model).__name__, "image": out.image_embeds.tolist(), "text": out.text_embeds.tolist(),
                  "ids": inputs["input_ids"].tolist(), "pixels": inputs["pixel_values"].tolist()}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint folder with different averaged and last weights."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "step-00000001"
    tokenizer = Tokenizer.train(["cloud off", "music note"] * 10, 560, 16)
    for seed, name in enumerate(("model", "average")):
        torch.manual_seed(seed)
        tree = {"preset": "icons", "image": {"layers": 2, "mean": [0.5, 0.4, 0.3]}}
        t = tokenizer
        config = with_tokenizer(check(ModelConfig, tree), t.vocab_size, t.bos_id, t.eos_id, t.pad_id)
        TwoTower(config, bias=True).save(folder / name)
        tokenizer.save(folder / name)
    (folder / "position.json").write_text(json.dumps({"step": 1}))
    return folder.parent.parent


def test_a_fresh_process_gets_the_same_features(checkpoint, tmp_path):
    differences = export(checkpoint, tmp_path / "out")
    assert max(differences.values()) <= parity.TOLERANCE
    command = [sys.executable, "-W", "ignore", "-c", READ_ALONE, str(tmp_path / "out"), json.dumps(parity.HARD_STRINGS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["kind"] == "CLIPModel"
    folder = checkpoint / "checkpoints" / "step-00000001" / "average"  # preferred where there is one
    model, tokenizer = TwoTower.load(folder), Tokenizer.load(folder)
    ids, lengths = tokenizer(parity.HARD_STRINGS)
    assert theirs["ids"] == ids.tolist()
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(theirs["text"]), model.encode_text(ids, lengths), atol=1e-5, rtol=0)
        image = model.encode_image(torch.tensor(theirs["pixels"]))
        torch.testing.assert_close(torch.tensor(theirs["image"]), image, atol=1e-5, rtol=0)


def test_last_weights_on_request_and_the_bias_is_kept(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out", "model")
    last = TwoTower.load(checkpoint / "checkpoints" / "step-00000001" / "model")
    again = TwoTower.load(tmp_path / "out")
    assert torch.equal(last.visual_projection.weight, again.visual_projection.weight)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["mmclr"]["logit_bias"] == -10.0


def test_card_and_parity_report_are_written(checkpoint, tmp_path, capsys):
    main([str(checkpoint), str(tmp_path / "my-clip")])
    said = capsys.readouterr().out
    assert "largest difference of image features" in said
    card = (tmp_path / "my-clip" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert 'from_pretrained("my-clip")' in card
    assert json.loads((tmp_path / "my-clip" / "parity.json").read_text())["image_features"] <= 1e-5
    main([str(checkpoint), str(tmp_path / "my-clip")])  # an earlier export is replaced


def test_a_disagreeing_export_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mmclr.models.blocks.ACTIVATIONS", {"gelu": torch.relu})
    with pytest.raises(UserError, match="does not agree with the checkpoint.*image_features"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_folders_are_named(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no average or model/ with weights"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is not an export"):
        export(checkpoint, tmp_path / "mine")
