"""Exports to open_clip load there without mmclr and give the same; imports and round trips lose no bit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mmclr.errors import UserError
from mmclr.export import import_model, parity
from mmclr.export.commands import verify
from mmclr.export.commands.open_clip import main, write
from mmclr.export.commands.transformers import write as write_transformers
from mmclr.export.origin import Source
from mmclr.models.two_tower import TwoTower
from tests import bounds
from tests.export.test_import import open_clip_folder
from tests.exports import alone, write_checkpoint

READ_ALONE = """
import numpy as np, open_clip, torch
from PIL import Image
folder, captions = sys.argv[1], json.loads(sys.argv[2])
model, _, transform = open_clip.create_model_and_transforms("local-dir:" + folder)
tokenizer = open_clip.get_tokenizer("local-dir:" + folder)
image = Image.fromarray((np.arange(40 * 50 * 3) % 251).astype(np.uint8).reshape(40, 50, 3))
pixels, ids = transform(image).unsqueeze(0), tokenizer(captions)
model.eval()
with torch.no_grad():
    image, text = model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)
print(json.dumps({"kind": type(model).__name__, "image": image.tolist(), "text": text.tolist(), "ids": ids.tolist(),
                  "pixels": pixels.tolist(), "scale": model.logit_scale.exp().item(),
                  "bias": None if model.logit_bias is None else model.logit_bias.item()}))
"""
STRINGS = [text for text in parity.HARD_STRINGS if "â" not in text]  # ftfy mends mojibake before open_clip's tokenizers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"))


ROUNDING = bounds.bound(terms=512)  # of a tower in float32


def close(a, b, atol=ROUNDING):
    torch.testing.assert_close(torch.as_tensor(a), b, atol=atol, rtol=0)


def test_a_fresh_process_gets_the_same(checkpoint, tmp_path):
    differences = write(Source.open(checkpoint), tmp_path / "out")
    assert differences["pixels"] == 0
    assert differences["token_ids_that_differ"] == 0
    assert 0 < differences["share_of_strings_cleaned_first"] < 0.2
    assert max(differences["image_features"], differences["text_features"]) <= ROUNDING
    theirs = alone(READ_ALONE, tmp_path / "out", json.dumps(STRINGS), cwd=tmp_path)
    source = Source.open(checkpoint)
    model = source.model
    ids, lengths = source.tokenizer(STRINGS)
    assert theirs["kind"] == "CLIP"
    assert [row[:n] for row, n in zip(theirs["ids"], lengths.tolist())] == source.tokenizer.encode(STRINGS)
    with torch.no_grad():
        close(theirs["image"], model.encode_image(torch.tensor(theirs["pixels"])))
        close(theirs["text"], model.encode_text(ids, lengths))
        close(theirs["scale"], model.logit_scale.exp())
        close(theirs["bias"], model.logit_bias)


def test_command_and_card(checkpoint, tmp_path, capsys):
    main([str(checkpoint), str(tmp_path / "out"), "--dtype", "fp16"])
    assert "an open_clip folder that agrees" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: open_clip")
    assert 'create_model_and_transforms("local-dir:out")' in card
    verify.main([str(tmp_path / "out"), str(checkpoint)])  # in the type that it was written in


def test_what_open_clip_cannot_hold_is_refused(tmp_path):
    mixed = {"preset": "icons", "image": {"layers": 1, "activation": "quick_gelu"}, "text": {"layers": 1}}
    with pytest.raises(UserError, match="open_clip has one activation for both towers"):
        write(Source.open(write_checkpoint(tmp_path / "run", mixed)), tmp_path / "out")


@pytest.mark.parametrize("vision", [{}, {"attentional_pool": True, "attn_pooler_heads": 2}])
def test_open_clip_to_mmclr_to_open_clip(vision, tmp_path):
    open_clip_folder(tmp_path / "theirs", vision, text={"vocab_size": 49408}, quick_gelu=True, init_logit_bias=-3.0)
    differences = import_model.write(tmp_path / "theirs", tmp_path / "ours")
    assert max(differences.values()) <= ROUNDING
    write(Source.open(tmp_path / "ours"), tmp_path / "back")
    one, two = (load_file(tmp_path / name / "open_clip_model.safetensors") for name in ("theirs", "back"))
    two = {name.removeprefix("text."): value for name, value in two.items()}  # as in open_clip's CustomTextCLIP
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_open_clip_to_transformers(tmp_path):
    peer = open_clip_folder(tmp_path / "theirs", text={"vocab_size": 49408})
    write_transformers(Source.open(tmp_path / "theirs"), tmp_path / "hf")
    again = TwoTower.load(tmp_path / "hf")
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        close(again.encode_image(pixels), peer.encode_image(pixels, normalize=True))


def test_import_of_transformers_folders(checkpoint, tmp_path, capsys):
    write_transformers(Source.open(checkpoint), tmp_path / "hf")
    import_model.main([str(tmp_path / "hf"), str(tmp_path / "ours")])
    assert "a model folder that agrees" in capsys.readouterr().out
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "ours"))
    two.pop("logit_bias")  # CLIPModel keeps it in its config
    assert all(torch.equal(one[name], value) for name, value in two.items())
    with pytest.raises(UserError, match="neither a folder here nor in the Hub's cache.*HF_HUB_OFFLINE"):
        import_model.main(["openai/clip-vit-base-patch32", str(tmp_path / "x")])
    with pytest.raises(UserError, match=r"ViT-B-32/nothing: no such weights in open_clip \(tags of 'ViT-B-32'"):
        import_model.main(["open_clip:ViT-B-32/nothing", str(tmp_path / "x")])
    with pytest.raises(UserError, match="trained with quick_gelu, and ViT-B-32 has the other.*ViT-B-32-quickgelu"):
        import_model.main(["open_clip:ViT-B-32/openai", str(tmp_path / "x")])
