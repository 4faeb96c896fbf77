"""Towers of other libraries: their own features, masks that work, nothing needed but the saved folder."""

import json

import pytest
import torch

from mmclr.config import check
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.foreign.build import fill_tower
from mmclr.models.resolve import resolve
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests import bounds

D = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
WORDS = {"vocab_size": 60, **IDS}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 16, "width": 16}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return {name: folder} of random transformers models, saved as transformers saves them."""
    import transformers as t

    image = {"image_size": 16, "patch_size": 8}
    text = {**D, **WORDS, "max_position_embeddings": 20}
    models = {
        "vit": t.ViTModel(t.ViTConfig(**D, **image)),
        "dinov2": t.Dinov2Model(
            t.Dinov2Config(**{k: v for k, v in D.items() if k != "intermediate_size"}, image_size=32, patch_size=8)
        ),
        "resnet": t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1])),
        "bert": t.BertModel(t.BertConfig(**text)),
        "roberta": t.RobertaModel(t.RobertaConfig(**{**text, **IDS, "max_position_embeddings": 22})),
        "clip": t.CLIPModel(t.CLIPConfig(text_config=text, vision_config={**D, **image}, projection_dim=24)),
        "siglip": t.SiglipModel(
            t.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config={**D, **image})
        ),
    }
    root = tmp_path_factory.mktemp("foreign")
    for i, (name, model) in enumerate(models.items()):
        torch.manual_seed(i)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        model.save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps(HALF))
    return {name: root / name for name in models}


def build(image, text, pool=("cls", "mean"), size=16):
    """Build a model of two foreign towers and fill them, as the start of a run does."""
    tree = {
        "embed": 24,
        "image": {"size": size, "foreign": {"source": f"transformers:{image}", "pool": pool[0]}},
        "text": {"context": 12, "foreign": {"source": f"transformers:{text}", "pool": pool[1]}},
    }
    torch.manual_seed(0)
    config = with_tokenizer(resolve(check(ModelConfig, tree)), 60, 1, 3, 0)
    model = TwoTower(config)
    for part, tower in (("image", model.vision_model), ("text", model.text_model)):
        fill_tower(part, tower, getattr(config, part).foreign)
    return model.eval()


def batch(n=5, width=12):
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, width + 1, (n,), generator=g)
    tokens = torch.randint(4, 60, (n, width), generator=g)
    tokens[:, 0] = 1
    for row, length in zip(tokens, lengths):
        row[length - 1], row[length:] = 3, 0
    return torch.randn(n, 3, 16, 16, generator=g), tokens, lengths


def peer(folder, name):
    import transformers as t

    return getattr(t, name).from_pretrained(folder).eval()


def close(a, b):
    torch.testing.assert_close(a, b, atol=bounds.bound(terms=32), rtol=0)


@pytest.mark.parametrize("pool", ["cls", "mean", "pooler"])
@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "siglip"])
def test_image_towers_equal_their_library(name, pool, folders):
    model = build(folders[name], folders["bert"], (pool, "mean"))
    cls = {"vit": "ViTModel", "dinov2": "Dinov2Model", "clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}[name]
    pixels, _, _ = batch()
    with torch.no_grad():
        out = peer(folders[name], cls)(pixels)
        tokens = out.last_hidden_state
        first = 0 if name == "siglip" else 1  # SigLIP has no class token
        wanted = {"cls": tokens[:, 0], "mean": tokens[:, first:].mean(1), "pooler": out.pooler_output}[pool]
        close(model.vision_model(pixels), wanted)
        unit = torch.nn.functional.normalize(wanted @ model.visual_projection.weight.T, dim=-1)
        close(model.encode_image(pixels), unit)


@pytest.mark.parametrize("pool", ["cls", "mean", "eos", "last", "pooler"])
@pytest.mark.parametrize("name", ["bert", "roberta", "clip"])
def test_text_towers_equal_their_library_and_see_no_padding(name, pool, folders):
    model = build(folders["vit"], folders[name], ("cls", pool))
    cls = {"bert": "BertModel", "roberta": "RobertaModel", "clip": "CLIPTextModel"}[name]
    _, tokens, lengths = batch()
    theirs = peer(folders[name], cls)
    for row, length in zip(tokens, lengths):
        with torch.no_grad():
            alone = theirs(row[None, :length])
            x = alone.last_hidden_state[0]
            wanted = {"cls": x[0], "mean": x.mean(0), "pooler": alone.pooler_output[0]}.get(pool, x[-1])
            padded = torch.nn.functional.pad(row, (0, 3), value=7)[None]
            close(model.text_model(padded, length[None])[0], wanted)


def test_a_convolutional_tower(folders):
    model = build(folders["resnet"], folders["bert"], ("pooler", "mean"))
    pixels, _, _ = batch()
    with torch.no_grad():
        close(model.vision_model(pixels), peer(folders["resnet"], "ResNetModel")(pixels).pooler_output.flatten(1))


def test_another_size_is_interpolated_as_the_library_does(folders):
    model = build(folders["vit"], folders["bert"], size=24)
    pixels = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        out = peer(folders["vit"], "ViTModel")(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        close(model.vision_model(pixels), out)


def test_siglip_as_a_whole(folders, tmp_path):
    model = TwoTower.load(folders["siglip"])
    theirs = peer(folders["siglip"], "SiglipModel")
    pixels, tokens, lengths = batch()
    full = torch.nn.functional.pad(tokens, (0, 8)).masked_fill(torch.arange(20) >= lengths[:, None], 0)
    with torch.no_grad():
        out = theirs(input_ids=full, pixel_values=pixels)
        close(model.encode_image(pixels), out.image_embeds)
        close(model.encode_text(tokens, lengths), out.text_embeds)
        logits = model.encode_image(pixels) @ model.encode_text(tokens, lengths).T * model.logit_scale.exp()
        limit = bounds.bound(terms=32, size=model.scale.item())
        torch.testing.assert_close(logits + model.logit_bias, out.logits_per_image, atol=limit, rtol=0)
    assert model.config.image.resize == "squash"


def test_a_saved_model_needs_no_source(folders, tmp_path):
    model = build(folders["dinov2"], folders["roberta"])
    model.save(tmp_path)
    tree = (tmp_path / "config.json").read_text()
    for folder in (folders["dinov2"], folders["roberta"]):
        tree = tree.replace(str(folder), "/nowhere")
    (tmp_path / "config.json").write_text(tree)
    again = TwoTower.load(tmp_path)
    pixels, tokens, lengths = batch()
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
        assert torch.equal(again.encode_text(tokens, lengths), model.encode_text(tokens, lengths))


def test_gradients_reach_every_weight_that_is_read(folders):
    model = build(folders["vit"], folders["bert"])
    pixels, tokens, lengths = batch()
    (model.encode_image(pixels).sin().sum() + model.encode_text(tokens, lengths).cos().sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["logit_scale"]  # the poolers that nobody reads are gone


def test_faults_are_named(folders, tmp_path):
    with pytest.raises(UserError, match=r"model.text.foreign.pool: say how.*cls, mean, eos, last, pooler"):
        build(folders["vit"], folders["bert"], ("cls", ""))
    with pytest.raises(UserError, match="says no library; write open_clip:FOLDER"):
        check(ModelConfig, {"image": {"foreign": {"source": str(folders["vit"])}}})
    with pytest.raises(UserError, match="tokenizer: it has 61 tokens and the text tower knows 60"):
        with_tokenizer(build(folders["vit"], folders["bert"]).config, 61, 1, 3, 0)
    text = {"foreign": {"source": f"transformers:{folders['clip']}", "pool": "pooler"}}
    config = resolve(check(ModelConfig, {"image": {"size": 16, "layers": 1, "patch": 8}, "text": text}))
    with pytest.raises(UserError, match="pools at 3"):
        with_tokenizer(config, 60, 1, 5, 0)
    with pytest.raises(UserError, match="patch_dropout"):
        build(folders["vit"], folders["bert"]).encode_image(batch()[0], torch.zeros(5, 1, dtype=torch.long))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "code.Mine"}}))
    with pytest.raises(UserError, match="code in a model folder is never run"):
        resolve(check(ModelConfig, {"text": {"foreign": {"source": f"transformers:{tmp_path}", "pool": "cls"}}}))
    (tmp_path / "config.json").write_text((folders["vit"] / "config.json").read_text())
    with pytest.raises(UserError, match="does not say how pixels are normalised; set model.image.mean"):
        resolve(check(ModelConfig, {"image": {"foreign": {"source": f"transformers:{tmp_path}", "pool": "cls"}}}))


def test_pickled_weights_are_not_read(folders, tmp_path):
    config = build(folders["vit"], folders["bert"]).config
    model = TwoTower(config)
    (tmp_path / "config.json").write_text((folders["bert"] / "config.json").read_text())
    torch.save(model.text_model.model.state_dict(), tmp_path / "pytorch_model.bin")
    foreign = check(type(config.text.foreign), {"source": f"transformers:{tmp_path}", "pool": "mean"})
    with pytest.raises(UserError, match="a pickle, which can run code and is never read"):
        fill_tower("text", model.text_model, foreign)
