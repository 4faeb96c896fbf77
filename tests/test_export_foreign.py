"""Towers of transformers are exported as what transformers has for them, or refused."""

import pytest

from mmclr.errors import UserError
from mmclr.export.source import Source
from mmclr.export.transformers import export, write
from tests.exports import check_alone, close, tokenizer, write_checkpoint


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
