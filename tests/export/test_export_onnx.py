"""Graphs: any number of rows, any length, the checkpoint's features in onnxruntime, with or without mmclr."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.commands import verify
from mmclr.export.commands.onnx import load, write
from mmclr.export.int8 import cost
from mmclr.export.origin import Source
from tests import bounds
from tests.exports import alone, foreign, write_checkpoint

pytest.importorskip("onnxruntime", reason="the extra mmclr[onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra mmclr[onnx] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's and the quantiser's own

READ_ALONE = """
import numpy as np, onnxruntime
from transformers import AutoTokenizer
folder, captions = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
image, text = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("image", "text"))
pixels = np.sin(np.arange(3 * 3 * 32 * 32, dtype=np.float32)).reshape(3, 3, 32, 32)
ids = tokenizer(captions, padding=True, truncation=True, return_tensors="np")
feed = {name: ids[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
print(json.dumps({"image": image.run(None, {"pixel_values": pixels})[0].tolist(),
                  "text": text.run(None, feed)[0].tolist()}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    source = Source.open(write_checkpoint(folder / "run"))
    return source, folder / "out", write(source, folder / "out", int8=True)


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), b, atol=bounds.bound(terms=512), rtol=0)


def test_a_fresh_process_gets_the_same(exported, tmp_path):
    source, folder, differences = exported
    assert max(differences["image_features"], differences["text_features"]) <= bounds.bound(terms=512)
    theirs = alone(READ_ALONE, folder, json.dumps(parity.HARD_STRINGS), cwd=tmp_path)
    ids, lengths = source.tokenizer(parity.HARD_STRINGS)
    pixels = torch.arange(3 * 3 * 32 * 32).float().sin().reshape(3, 3, 32, 32)
    with torch.no_grad():
        close(theirs["image"], source.model.encode_image(pixels))
        close(theirs["text"], source.model.encode_text(ids, lengths))


@pytest.mark.parametrize("rows", [1, 5])
def test_any_rows_and_lengths(rows, exported):
    source, folder, _ = exported
    peer = load(folder)
    texts = ["cloud", "cloud music note off a b c d e f g h"][: min(rows, 2)] * max(1, rows // 2)
    ids, lengths = source.tokenizer(texts)
    pixels = torch.randn(rows, 3, 32, 32)
    with torch.no_grad():
        close(peer.image(pixels), source.model.encode_image(pixels))
        close(peer.text(texts), source.model.encode_text(ids, lengths))


def test_int8_is_smaller_and_its_cost_is_told(exported):
    source, folder, differences = exported
    whole, small = ((folder / f"image{kind}.onnx").stat().st_size for kind in ("", ".int8"))
    assert small < 0.4 * whole
    assert 0.9 < differences["int8_lowest_cosine_image"] < 1
    pixels = parity.prepare(parity.hard_images(32), source.model.config.image)
    with torch.no_grad():
        cosine = (load(folder, ".int8").image(pixels) * source.model.encode_image(pixels)).sum(1).min()
    close(differences["int8_lowest_cosine_image"], cosine)
    assert "int8 lowest cosine image" in (folder / "README.md").read_text()


def test_accuracy_of_int8_on_shards(exported, tmp_path):
    source, folder, _ = exported
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i in range(12):
            png = io.BytesIO()
            Image.new("RGB", (40, 36), (20 * i, 90, 255 - 20 * i)).save(png, "PNG")
            for name, data in ((f"{i:02d}.png", png.getvalue()), (f"{i:02d}.txt", b"colour %d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    found = cost(source, load(folder), load(folder, ".int8"), str(tmp_path / "0.tar"))
    kinds = ("float32_recall_at_1_of_12", "int8_recall_at_1_of_12")
    images = parity.prepare(
        [Image.new("RGB", (40, 36), (20 * i, 90, 255 - 20 * i)) for i in range(12)], source.model.config.image
    )
    ids, lengths = source.tokenizer([f"colour {i}" for i in range(12)])
    with torch.no_grad():
        logits = source.model.encode_text(ids, lengths) @ source.model.encode_image(images).T
    close(found[kinds[0]], (logits.argmax(1) == torch.arange(12)).float().mean())
    assert 0 <= found[kinds[1]] <= 1


def test_foreign_towers_and_scalars(tmp_path):
    source = Source.open(foreign(tmp_path, "cls", "mean"))
    differences = write(source, tmp_path / "out")
    assert max(differences["image_features"], differences["text_features"]) <= bounds.bound(terms=512)
    tree = json.loads((tmp_path / "out" / "config.json").read_text())
    assert tree["mmclr"]["logit_bias"] == pytest.approx(source.model.logit_bias.item())
    verify.main([str(tmp_path / "out"), str(tmp_path / "run")])
    (tmp_path / "out" / "text.onnx").unlink()
    with pytest.raises(UserError, match="text.onnx missing"):
        verify.main([str(tmp_path / "out")])
