"""Exports to transformers load in a process that knows nothing of mmclr, and give the same features there."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmclr.config import check
from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.export import parity, verify
from mmclr.export.source import Source
from mmclr.export.transformers import export, main, write
from mmclr.models.clip import ModelConfig
from mmclr.models.presets import PRESETS
from mmclr.models.two_tower import TwoTower
from tests.exports import ICONS, alone, tokenizer, write_checkpoint

READ_ALONE = """
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor
captions, pad = json.loads(sys.argv[1]), json.loads(sys.argv[2])
picture = Image.fromarray((np.arange(40 * 50 * 3) % 251).astype(np.uint8).reshape(40, 50, 3))
found = []
for folder in sys.argv[3:]:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    plain = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(text=captions, images=picture, return_tensors="pt", padding=pad, truncation=True)
    inputs["pixel_values"] = plain(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(**inputs)
    found.append({"kind": type(model).__name__, "image": out.image_embeds.tolist(), "text": out.text_embeds.tolist(),
                  "logits": out.logits_per_image.tolist(), "ids": inputs["input_ids"].tolist(),
                  "pixels": inputs["pixel_values"].tolist()})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def written_once(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(checkpoint, folder)
    return folder


def picture(size=(50, 40)):
    import numpy as np

    width, height = size
    values = (np.arange(height * width * 3) % 251).astype(np.uint8)
    return Image.fromarray(values.reshape(height, width, 3))


def close(a, b, atol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a), b, atol=atol, rtol=0)


def check_alone(sources, tmp_path, kind, pad=True):
    """Compare folders, as a process without mmclr reads them, with the models that they came from."""
    found = alone(READ_ALONE, json.dumps(parity.HARD_STRINGS), json.dumps(pad), *sources, cwd=tmp_path)
    for theirs, source in zip(found, sources.values(), strict=True):
        assert theirs["kind"] == kind
        model, words = source.model, source.tokenizer
        ids, lengths = words(parity.HARD_STRINGS)
        assert [row[:n] for row, n in zip(theirs["ids"], lengths.tolist())] == words.encode(parity.HARD_STRINGS)
        pixels = parity.prepare([picture()], model.config.image)
        assert torch.equal(torch.tensor(theirs["pixels"]), pixels)
        with torch.no_grad():
            image, text = model.encode_image(pixels), model.encode_text(ids, lengths)
            close(theirs["image"], image)
            close(theirs["text"], text)
            bias = model.logit_bias if kind == "SiglipModel" else 0.0
            close(theirs["logits"], image @ text.T * model.logit_scale.exp() + bias, 1e-3)


def test_a_fresh_process_gets_the_same(checkpoint, tmp_path):
    differences = export(checkpoint, tmp_path / "out")
    assert differences["pixels"] == 0
    assert differences["token_ids_that_differ"] == 0
    assert max(differences["image_features"], differences["text_features"]) <= 1e-6
    source = Source.open(checkpoint)
    assert source.folder.name == "average"  # preferred where there is one
    check_alone({tmp_path / "out": source}, tmp_path, "CLIPModel")


def test_every_preset(tmp_path):
    """Of full width, with one layer."""
    sources, words = {}, tokenizer(77)
    for name in PRESETS:
        tree = {"preset": name, "image": {"layers": 1}, "text": {"layers": 1}}
        run = write_checkpoint(tmp_path / name / "run", tree, bias=False, names=("model",), t=words)
        sources[tmp_path / name / "out"] = Source.open(run)
        write(sources[tmp_path / name / "out"], tmp_path / name / "out")
    check_alone(sources, tmp_path, "CLIPModel")


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_as_deep_as_it_is(name, tmp_path):
    run = write_checkpoint(tmp_path / "run", {"preset": name}, bias=False, names=("model",), t=tokenizer(77))
    source = Source.open(run)
    write(source, tmp_path / "out")
    check_alone({tmp_path / "out": source}, tmp_path, "CLIPModel")


def test_ten_thousand_strings(exported):
    """Ids as in training, by a tokenizer that transformers opens itself."""
    from transformers import AutoTokenizer

    texts = parity.strings(10_000)
    theirs = AutoTokenizer.from_pretrained(exported)(texts, truncation=True)["input_ids"]
    assert theirs == Tokenizer.load(exported).encode(texts) == tokenizer().encode(texts)


def test_last_weights_on_request_and_the_bias_is_kept(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out", "model")
    last = TwoTower.load(checkpoint / "checkpoints" / "step-00000001" / "model")
    again = TwoTower.load(tmp_path / "out")
    for name, value in last.state_dict().items():
        close(again.state_dict()[name], value, 1e-6 if name == "logit_bias" else 0)


def test_transformers_to_mmclr_to_transformers(written_once, tmp_path):
    write(Source.open(written_once), tmp_path / "two")
    one, two = (load_file(folder / "model.safetensors") for folder in (written_once, tmp_path / "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_narrow_types(dtype, checkpoint, tmp_path):
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    differences = write(Source.open(checkpoint, dtype=dtype), tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {wanted}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(wanted).removeprefix("torch.")
    assert 1e-5 < differences["rounding"] < 0.02


def test_the_two_halves(checkpoint, tmp_path):
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    source = Source.open(checkpoint)
    write(source, tmp_path / "out", halves=True)
    pixels = parity.prepare([picture()], source.model.config.image)
    ids, lengths = source.tokenizer(["cloud", "music off"])
    image = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "out" / "image").eval()
    text = CLIPTextModelWithProjection.from_pretrained(tmp_path / "out" / "text").eval()
    with torch.no_grad():
        close(parity.unit(image(pixels).image_embeds), source.model.encode_image(pixels))
        close(parity.unit(text(ids).text_embeds), source.model.encode_text(ids, lengths))
    assert Tokenizer.load(tmp_path / "out" / "text").encode(["a"]) == source.tokenizer.encode(["a"])


def foreign(tmp_path, image_pool, text_pool, image="ViT", text="Bert"):
    """Write a checkpoint of random foreign towers."""
    import transformers as t

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    pixels = {"image_size": 16, "patch_size": 8}
    words = tokenizer()
    vocabulary = {"vocab_size": words.vocab_size, "max_position_embeddings": 16}
    parts = {
        "ViT": ("ViTModel", t.ViTConfig(**size, **pixels)),
        "Dinov2": ("Dinov2Model", t.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, **pixels)),
        "Siglip": ("SiglipVisionModel", t.SiglipVisionConfig(**size, **pixels)),
        "Bert": ("BertModel", t.BertConfig(**size, **vocabulary)),
        "SiglipText": ("SiglipTextModel", t.SiglipTextConfig(**size, **vocabulary, projection_size=32)),
    }
    for name in (image, text):
        cls, config = parts[name]
        getattr(t, cls)(config).save_pretrained(tmp_path / name)

    def source(name, pool):
        kind = {"source": f"transformers:{tmp_path / name}", "pool": pool, "projection": not name.startswith("Siglip")}
        return {"foreign": kind}

    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash"}
    tree = {"embed": 32, "image": {"size": 16, **half, **source(image, image_pool)}, "text": source(text, text_pool)}
    return write_checkpoint(tmp_path / "run", tree, t=words)


def test_foreign_pairs_become_a_dual_encoder(tmp_path):
    sources = {}
    for image, pool in (("ViT", "pooler"), ("Dinov2", "cls")):
        source = Source.open(foreign(tmp_path / image, pool, "pooler", image))
        write(source, tmp_path / image / "out")
        sources[tmp_path / image / "out"] = source
    check_alone(sources, tmp_path, "VisionTextDualEncoderModel")


def test_siglip_stays_siglip(tmp_path):
    source = Source.open(foreign(tmp_path, "pooler", "pooler", "Siglip", "SiglipText"))
    write(source, tmp_path / "out")
    check_alone({tmp_path / "out": source}, tmp_path, "SiglipModel", pad="max_length")
    again = Source.open(tmp_path / "out")
    for name, value in source.model.state_dict().items():
        close(again.model.state_dict()[name], value, 0)


def test_what_transformers_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"its text tower \(bert\) is pooled by 'mean' and not by its own pooler"):
        export(foreign(tmp_path, "pooler", "mean"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_card_and_report(checkpoint, tmp_path, capsys):
    result = {"dataset": "icons", "task": "zeroshot_retrieval", "metrics": {"image_retrieval_recall@1": 0.5, "x": None},
              "ci95": {"image_retrieval_recall@1": [0.4, 0.6]}}  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(result))
    settings = ["--results", str(tmp_path / "r.json"), "--license", "mit"]
    main([str(checkpoint), str(tmp_path / "my-clip"), *settings, "--halves"])
    said = capsys.readouterr()
    assert "largest difference of image features" in said.out
    assert said.err == ""  # no bars of the libraries'
    card = (tmp_path / "my-clip" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: mit")
    assert 'from_pretrained("my-clip")' in card
    assert "| icons | zeroshot_retrieval | image_retrieval_recall@1 | 0.5000 | 0.4000 to 0.6000 |" in card
    from huggingface_hub import ModelCard

    listed = ModelCard(card).data.eval_results  # read by the Hub's own rules
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in listed] == [
        ("icons", "image_retrieval_recall@1", 0.5)]  # fmt: skip
    for head in ("## Encoders", "## Intended use", "## Limits", "## Agreement"):
        assert head in card
    main([str(checkpoint), str(tmp_path / "my-clip")])  # an earlier export is replaced
    assert "## Evaluation" not in (tmp_path / "my-clip" / "README.md").read_text()
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(UserError, match="--results .*not a result"):
        main([str(checkpoint), str(tmp_path / "my-clip"), *settings])


def test_a_disagreeing_export_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mmclr.models.blocks.ACTIVATIONS", {"gelu": torch.relu})
    with pytest.raises(UserError, match="does not agree with the checkpoint.*image_features"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture
def exported(written_once, tmp_path):
    """A copy of an export that a test may change."""
    return shutil.copytree(written_once, tmp_path / "out")


def flip_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["text_model.encoder.layers.0.mlp.fc1.weight"][3, 5] *= -1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_the_tokenizer(folder):
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    words = tree["model"]["vocab"]
    words["a</w>"], words["t</w>"] = words["t</w>"], words["a</w>"]
    path.write_text(json.dumps(tree))


def change_the_activation(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"gelu"', '"quick_gelu"'))


@pytest.mark.parametrize(
    ("change", "file", "difference"),
    [
        (flip_a_weight, "model.safetensors", "text_features"),
        (change_the_tokenizer, "tokenizer.json", "token_ids_that_differ"),
        (change_the_activation, "config.json", "image_features.*text_features"),
    ],
)
def test_a_changed_folder_is_refused_with_the_reason(change, file, difference, exported, checkpoint):
    verify.main([str(exported), str(checkpoint)])
    change(exported)
    with pytest.raises(UserError, match=f"not what was exported \\({file} changed\\)"):
        verify.verify_files(exported)
    with pytest.raises(UserError, match=f"does not agree with the checkpoint.*{difference}"):
        verify.verify(exported, checkpoint)


def test_missing_files_are_named(exported, checkpoint, tmp_path):
    (exported / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json missing"):
        verify.main([str(exported)])
    (exported / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no model.safetensors there"):
        TwoTower.load(exported)
    with pytest.raises(UserError, match="no model there; name a run's folder, a checkpoint with average or model/"):
        export(tmp_path, tmp_path / "other")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is not an export"):
        export(checkpoint, tmp_path / "mine")
    with pytest.raises(UserError, match="no parity.json"):
        verify.main([str(tmp_path / "mine")])


def test_no_pickle_is_read(exported):
    weights = load_file(exported / "model.safetensors")
    (exported / "model.safetensors").unlink()
    torch.save(weights, exported / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pytorch_model.bin there, a pickle.*never read"):
        TwoTower.load(exported)


def test_icons_are_what_the_demo_trains():
    assert check(ModelConfig, ICONS).embed == 128


def test_sentence_transformers_loads_it(written_once, checkpoint):
    kinds = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    import mmclr

    peer, own = kinds.SentenceTransformer(str(written_once), device="cpu"), mmclr.load(checkpoint, device="cpu")
    text = peer.encode(["cloud", "music note"], normalize_embeddings=True)
    image = peer.encode([picture()], normalize_embeddings=True)
    close(text, own.encode_text(["cloud", "music note"], output="torch"))
    close(image, own.encode_image(picture(), output="torch"), 1e-3)  # it resamples with torchvision, not Pillow
