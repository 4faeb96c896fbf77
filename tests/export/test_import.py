"""Weights in: open_clip's and transformers' folders give their own library's features, and go back to the bit."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mmclr.models.formats import open_clip as oc
from mmclr.models.formats.open_clip_weights import to_open_clip
from mmclr.models.two_tower import TwoTower
from tests import bounds

VISION = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2.5}
TEXT = {"context_length": 10, "vocab_size": 60, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.0}
PIXELS = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "squash"}


def open_clip_folder(folder, vision=None, text=None, **model):
    """Write a random open_clip model as open_clip lays out a folder; return open_clip's own model."""
    import open_clip

    cfg = {"embed_dim": 20, "vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}, **model}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / oc.CONFIG).write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": PIXELS}))
    torch.manual_seed(0)
    peer = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(0.02 * torch.randn_like(p))  # biases and norms are trivial at the start
    save_file({k: v.contiguous() for k, v in peer.state_dict().items()}, folder / "open_clip_model.safetensors")
    return peer


def inputs(n=6, size=16, context=10, vocab=60):
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, context + 1, (n,), generator=g)
    tokens = torch.randint(1, vocab - 1, (n, context), generator=g)
    for row, length in zip(tokens, lengths):
        row[length - 1 :] = vocab - 1
    return torch.randn(n, 3, size, size, generator=g), tokens, lengths


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


ROUNDING = bounds.bound(terms=512)  # of a tower in float32


def close(a, b, atol=ROUNDING):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("model", [{}, {"quick_gelu": True, "init_logit_bias": -5.0}, {"custom_text": True}])
def test_open_clip_features_and_round_trip(model, tmp_path):
    peer = open_clip_folder(tmp_path, text={"pool_type": "eos", "eos_id": 59} if model else {}, **model)
    ours = TwoTower.load(tmp_path)
    assert ours.config.image.foreign is None
    assert ours.config.text.foreign is None
    assert (ours.logit_bias is None) == ("init_logit_bias" not in model)
    pixels, tokens, lengths = inputs()
    with torch.no_grad():
        close(ours.encode_image(pixels), peer.encode_image(pixels, normalize=True))
        close(ours.encode_text(tokens, lengths), peer.encode_text(tokens, normalize=True))
    image = ours.config.image
    assert (image.mean, image.std, image.resample, image.resize) == (
        (0.1, 0.2, 0.3),
        (0.5, 0.6, 0.7),
        "bilinear",
        "squash",
    )
    back = to_open_clip(ours.state_dict(), ours.config)
    theirs = {name.removeprefix("text."): value for name, value in peer.state_dict().items()}
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.items())
    tree = oc.write_config(ours.config, bias=ours.logit_bias is not None)
    assert tree["model_cfg"]["vision_cfg"].items() >= VISION.items()
    assert tree["model_cfg"].get("quick_gelu", False) == model.get("quick_gelu", False)
    assert tree["preprocess_cfg"] == {**PIXELS, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}


ODD = {
    "attention pooling": ({"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}, {}),
    "no first norm": ({"no_ln_pre": True, "pool_type": "avg"}, {}),
    "resnet": ({"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32, "patch_size": None}, {}),
    "timm": ({"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 32}, {}),
    "siglip text": ({}, {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
    "class token": ({}, {"embed_cls": True, "pad_id": 0}),
    "tanh": ({"act_kwargs": {"approximate": "tanh"}}, {}),
}


@pytest.mark.parametrize("name", ODD)
def test_other_open_clip_towers_stay_their_own(name, tmp_path):
    vision, text = ODD[name]
    peer = open_clip_folder(tmp_path / "peer", vision, text, custom_text=True)
    model = TwoTower.load(tmp_path / "peer")
    assert (model.config.image.foreign is None, model.config.text.foreign is None) == (not vision, not text)
    pixels, tokens, lengths = inputs(2, model.config.image.size)
    padded = tokens if "embed_cls" not in text else tokens.masked_fill(torch.arange(10) >= lengths[:, None], 0)
    model.save(tmp_path / "ours")
    (tmp_path / "peer").rename(tmp_path / "gone")  # a saved model needs nothing else
    again = TwoTower.load(tmp_path / "ours")
    with torch.no_grad():
        for each in (model, again):
            close(each.encode_image(pixels), peer.encode_image(pixels, normalize=True))
            short = tokens[:, : lengths.max()]
            close(each.encode_text(short, lengths), peer.encode_text(padded, normalize=True))
    back = to_open_clip(again.state_dict(), again.config)
    theirs = peer.state_dict()
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
