"""The Python interface: any kind of model folder, any kind of image, the same numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mmclr
from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.commands.open_clip import write as write_open_clip
from mmclr.export.commands.transformers import write as write_transformers
from mmclr.export.origin import Source
from tests import bounds
from tests.exports import write_checkpoint

TEXTS = ["music note", "cloud", "a cloud off the music with many many words"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run):
    return mmclr.load(run, device="cpu")


def picture(seed=0, size=(40, 50, 3)):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=bounds.bound(terms=32))


def test_equals_the_plain_way(run, model):
    source = Source.open(run)
    images = [Image.fromarray(picture(i)) for i in range(5)]
    ids, lengths = source.tokenizer(TEXTS)
    with torch.no_grad():
        close(
            model.encode_image(images, batch=2),
            source.model.encode_image(parity.prepare(images, source.model.config.image)),
        )
        close(model.encode_text(TEXTS, batch=2), source.model.encode_text(ids, lengths))
    assert model.scale == pytest.approx(source.model.scale.item())
    assert model.bias == pytest.approx(source.model.logit_bias.item())
    found = model.similarity(images, TEXTS)
    assert found.shape == (5, 3)
    assert found.dtype == np.float32
    close(found, model.encode_image(images) @ model.encode_text(TEXTS).T)
    close(model.similarity(model.encode_image(images), model.encode_text(TEXTS, output="torch")), found)


def test_every_kind_of_picture(model, tmp_path):
    array = picture()
    Image.fromarray(array).save(tmp_path / "a.png")
    wanted = model.encode_image(Image.fromarray(array))
    assert wanted.shape == (1, 128)
    for same in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        array,
        torch.from_numpy(array),
        array.transpose(2, 0, 1),
        torch.from_numpy(array).permute(2, 0, 1),
        Image.fromarray(array).convert("RGBA"),
    ):
        close(model.encode_image(same), wanted)
        close(model.encode_image([same, same]), np.concatenate([wanted, wanted]))
    stack = np.stack([picture(1), picture(2)])
    close(model.encode_image(stack), model.encode_image(list(stack)))
    pixels = parity.prepare([Image.fromarray(array)], model.model.config.image)
    close(model.encode_image(pixels), wanted)
    close(model.encode_image(pixels[0]), wanted)
    grey = picture(3, (40, 40))
    close(model.encode_image(grey), model.encode_image(Image.fromarray(grey)))
    assert isinstance(model.encode_image(array, output="torch"), torch.Tensor)


def test_nothing_and_one(model):
    assert model.encode_image([]).shape == (0, 128)
    assert model.encode_text([]).shape == (0, 128)
    close(model.encode_text("cloud"), model.encode_text(["cloud"]))
    close(model.encode_text(["cloud"] * 3, progress=True)[2:], model.encode_text("cloud"))


def test_what_cannot_be_read_is_named(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="image 1 .*broken.png.*not an image"):
        model.encode_image([picture(), tmp_path / "broken.png"])
    with pytest.raises(UserError, match="image 0: .*No such file"):
        model.encode_image(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"image 0: float64 of shape \[4, 4, 3\]; give uint8"):
        model.encode_image(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match="neither numpy nor torch"):
        model.encode_text("a", output="jax")


def test_every_kind_of_folder(run, model, tmp_path):
    source, image = Source.open(run), picture()
    write_transformers(source, tmp_path / "hf")
    write_open_clip(source, tmp_path / "oc")
    step = run / "checkpoints" / "step-00000001"
    for folder in (step, step / "average", tmp_path / "hf", tmp_path / "oc"):
        again = mmclr.load(folder, device="cpu")
        close(again.encode_image(image), model.encode_image(image))
        close(again.encode_text(TEXTS), model.encode_text(TEXTS))
    last = mmclr.load(run, weights="model")
    assert np.abs(last.encode_image(image) - model.encode_image(image)).max() > 1e-3
    with pytest.raises(UserError, match="neither a folder here nor in the Hub's cache"):
        mmclr.load("somebody/model")


def test_a_siglip_folder(tmp_path):
    import transformers as t

    from tests.exports import tokenizer

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    words = tokenizer()
    text = {
        **size,
        "vocab_size": words.vocab_size,
        "max_position_embeddings": 16,
        "projection_size": 32,
        "eos_token_id": words.eos_id,
        "pad_token_id": words.pad_id,
        "bos_token_id": words.bos_id,
    }
    config = t.SiglipConfig(text_config=text, vision_config={**size, "image_size": 16, "patch_size": 8})
    peer = t.SiglipModel(config).eval()
    peer.save_pretrained(tmp_path)
    words.save(tmp_path)
    t.SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    images = [Image.fromarray(picture(i)) for i in range(3)]
    pixels = t.SiglipImageProcessorPil.from_pretrained(tmp_path)(images, return_tensors="pt")["pixel_values"]
    model = mmclr.load(tmp_path)
    ids = words.backend(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = peer(input_ids=ids, pixel_values=pixels)
    close(model.encode_image(images), out.image_embeds)
    close(model.encode_text(TEXTS), out.text_embeds)
    logits = model.scale * model.similarity(images, TEXTS) + model.bias
    np.testing.assert_allclose(logits, out.logits_per_image.numpy(), atol=bounds.bound(terms=32, size=model.scale))


def test_importing_is_light_and_running_code_is_not_offered(tmp_path):
    heavy = "{'torch', 'transformers', 'numpy', 'open_clip'}"
    code = f"import sys, mmclr, mmclr.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    tree = {"model_type": "mine", "auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="a 'mine' model; only clip, siglip, mmclr, mmclr_arrays are read as a whole"):
        mmclr.load(tmp_path)
