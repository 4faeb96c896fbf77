"""Exports to transformers load in a process that knows nothing of mmclr, and give the same features there."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.commands import verify
from mmclr.export.commands.transformers import export, main, write
from mmclr.export.origin import Source
from mmclr.models.config import ModelConfig
from mmclr.models.presets import PRESETS
from mmclr.models.two_tower import TwoTower
from tests import bounds
from tests.exports import ICONS, check_alone, close, picture, tokenizer, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def written_once(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(checkpoint, folder)
    return folder


def test_a_fresh_process_gets_the_same(checkpoint, tmp_path):
    differences = export(checkpoint, tmp_path / "out")
    assert differences["pixels"] == 0
    assert differences["token_ids_that_differ"] == 0
    assert max(differences["image_features"], differences["text_features"]) <= bounds.bound(terms=512)
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


def test_card_and_report(checkpoint, tmp_path, capsys):
    result = {
        "dataset": "icons",
        "task": "zeroshot_retrieval",
        "metrics": {"image_retrieval_recall@1": 0.5, "x": None},
        "ci95": {"image_retrieval_recall@1": [0.4, 0.6]},
    }
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
        ("icons", "image_retrieval_recall@1", 0.5)
    ]
    for head in ("## Encoders", "## Intended use", "## Limits", "## Agreement"):
        assert head in card
    main([str(checkpoint), str(tmp_path / "my-clip")])  # an earlier export is replaced
    assert "## Evaluation" not in (tmp_path / "my-clip" / "README.md").read_text()
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(UserError, match="--results .*not a result"):
        main([str(checkpoint), str(tmp_path / "my-clip"), *settings])


def test_a_disagreeing_export_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mmclr.models.clip.blocks.ACTIVATIONS", {"gelu": torch.relu})
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
    (tmp_path / "mine" / "notes.txt").write_text("mine")
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
