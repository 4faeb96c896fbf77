"""An exported captioner writes what the checkpoint writes, with mmclr and in a process that knows nothing of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmclr
from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.export.commands import verify
from mmclr.export.commands.transformers import export
from mmclr.export.parity import hard_images, prepare
from mmclr.models.captioning.decoding import Decoding
from mmclr.models.captioning.generate import Writer
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer

ALONE = """
import json, sys
sys.modules["mmclr"] = None  # importing it is an error
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
captioner = AutoModel.from_pretrained(sys.argv[1] + "/captioner", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1])
inputs = processor(images=[Image.open(path).convert("RGB") for path in sys.argv[2:]], return_tensors="pt")
for how in ({}, {"num_beams": 3}):
    print(json.dumps(captioner.generate(**inputs, **how).tolist()))
print(json.dumps(processor.batch_decode(captioner.generate(**inputs), skip_special_tokens=True)))
"""


def make(folder, queries, tied):
    tokenizer = Tokenizer.train(["cloud off", "music note"] * 10, 560, 16)
    t = tokenizer
    tree = {
        "preset": "icons",
        "image": {"layers": 1, "mean": [0.5, 0.4, 0.3]},
        "text": {"layers": 2},
        "captioner": {"layers": 2, "queries": queries, "tied": tied},
    }
    torch.manual_seed(0)
    model = TwoTower(with_tokenizer(check(ModelConfig, tree), t.vocab_size, t.bos_id, t.eos_id, t.pad_id))
    model.words().data.mul_(30)
    model.text_model.embeddings.position_embedding.weight.data.mul_(300)
    model.save(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module", params=[(0, True), (5, False)], ids=["patches", "queries"])
def exported(request, tmp_path_factory):
    """Return a model's folder and its export."""
    folder = make(tmp_path_factory.mktemp("model"), *request.param)
    out = tmp_path_factory.mktemp("out") / "mine"
    assert export(folder, out)["captions_that_differ"] == 0
    return folder, out


def body(row, eos, longest):
    row = row[1:]
    return row[: row.index(eos) if eos in row else longest]


def written_alone(model, out, tmp_path):
    """Compare what an export writes in a process without mmclr with what its model writes; return the texts."""
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, hard_images(32)):
        image.save(path)
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(out), *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env=env)
    greedy, beams, texts = map(json.loads, done.stdout.splitlines()[-3:])
    write, text = Writer(model), model.config.text
    pixels = prepare([Image.open(path).convert("RGB") for path in paths], model.config.image)
    for theirs, how in ((greedy, Decoding()), (beams, Decoding(beams=3))):
        assert [body(row, text.eos, text.context - 2) for row in theirs] == write(pixels, how)
    assert len(texts) == 4
    return texts


def test_a_process_without_mmclr_writes_the_same(exported, tmp_path):
    folder, out = exported
    assert len(set(written_alone(TwoTower.load(folder), out, tmp_path))) > 1


def test_with_mmclr_no_code_of_the_folder_is_run(exported):
    from transformers import AutoModel

    import mmclr.models.captioning.transformers_model as generation

    _, out = exported
    assert type(AutoModel.from_pretrained(out / "captioner")) is generation.CaptionerModel
    assert (out / "captioner" / "modeling_captioner.py").read_text() == Path(generation.__file__).read_text()


def test_an_export_is_a_source_of_captions_here(exported, tmp_path):
    folder, out = exported
    hard_images(32)[1].save(tmp_path / "one.png")
    assert mmclr.load(out).caption(tmp_path / "one.png") == mmclr.load(folder).caption(tmp_path / "one.png")


def test_it_is_verified_and_described(exported):
    folder, out = exported
    assert verify.verify(out, folder)["captions_that_differ"] == 0
    card = (out / "README.md").read_text()
    assert 'AutoModel.from_pretrained("mine/captioner", trust_remote_code=True)' in card
    assert "2 decoder layers on top of the text encoder" in card
    code = out / "captioner" / "modeling_captioner.py"
    text = code.read_text()
    code.write_text(text.replace("tril", "triu"))
    with pytest.raises(UserError, match=r"captioner/modeling_captioner.py changed"):
        verify.verify_files(out)
    code.write_text(text)


def test_another_captioner_is_noticed(exported, tmp_path):
    folder, out = exported
    other = TwoTower.load(folder)
    other.captioner.final_layer_norm.weight.data.neg_()
    other.save(tmp_path)
    Tokenizer.load(folder).save(tmp_path)
    with pytest.raises(UserError, match=r"does not agree with the checkpoint \(captions_that_differ 5\)"):
        verify.verify(out, tmp_path)
