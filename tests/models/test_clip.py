"""The towers: equal to transformers' CLIPModel, packing and pruning exact in value and gradient."""

import dataclasses
import json

import pytest
import torch

from mmclr.config import ConfigError, check
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.presets import PRESETS
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests import bounds

SMALL = {
    "embed": 24,
    "image": {"size": 24, "patch": 8, "width": 32, "layers": 3, "heads": 4, "mlp": 48},
    "text": {
        "context": 12,
        "width": 40,
        "layers": 2,
        "heads": 5,
        "mlp": 56,
        "vocab": 50,
        "bos": 48,
        "eos": 49,
        "pad": 49,
    },
}


def small(activation="gelu", seed=0, **kwargs):
    torch.manual_seed(seed)
    tree = {
        name: {**part, "activation": activation} if isinstance(part, dict) else part for name, part in SMALL.items()
    }
    return TwoTower(check(ModelConfig, tree), **kwargs)


def batch(n=7, seed=1):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 13, (n,), generator=g)
    tokens = torch.randint(0, 48, (n, 12), generator=g)
    for row, length in zip(tokens, lengths):
        row[0], row[length - 1 :] = 48, 49
    return torch.randn(n, 3, 24, 24, generator=g), tokens, lengths


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_equals_transformers(activation, tmp_path):
    from transformers import CLIPModel

    model = small(activation)
    model.save(tmp_path)
    peer, info = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels, tokens, lengths = batch()
    with torch.no_grad():
        image = peer.get_image_features(pixels).pooler_output
        text = peer.get_text_features(tokens).pooler_output
        torch.testing.assert_close(
            model.encode_image(pixels), torch.nn.functional.normalize(image), atol=bounds.bound(terms=16), rtol=0
        )
        torch.testing.assert_close(
            model.encode_text(tokens, lengths), torch.nn.functional.normalize(text), atol=bounds.bound(terms=16), rtol=0
        )


def test_pooled_equals_all_tokens_in_value_and_gradient():
    """Packing and last-block pruning against the plain batched form, in float64."""
    model = small().double()
    pixels, tokens, lengths = batch()

    def plain():
        image = model.vision_model.post_layernorm(model.vision_model.tokens(pixels.double())[:, 0])
        text = model.text_model.tokens(tokens)[torch.arange(len(lengths)), lengths - 1]
        return image, text

    def fast():
        return model.vision_model(pixels.double()), model.text_model(tokens, lengths)

    grads = []
    for form in (plain, fast):
        image, text = form()
        model.zero_grad()
        (image.sin().sum() + text.cos().sum()).backward()
        grads.append(
            [image.detach(), text.detach()] + [p.grad.clone() for p in model.parameters() if p.grad is not None]
        )
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_padding_and_order_change_nothing():
    model = small()
    _, tokens, lengths = batch()
    text = model.encode_text(tokens, lengths)
    wider = torch.nn.functional.pad(tokens[:, : lengths.max()], (0, 0))
    shuffle = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(model.encode_text(wider, lengths), text)
    torch.testing.assert_close(model.encode_text(tokens[shuffle], lengths[shuffle]), text[shuffle])
    alone = torch.cat([model.encode_text(t[None, :n], n[None]) for t, n in zip(tokens, lengths)])
    torch.testing.assert_close(alone, text)


def test_dropped_patches_are_not_seen():
    model = small()
    pixels, _, _ = batch()
    keep = torch.tensor([0, 2, 5]).expand(len(pixels), -1)
    image = model.encode_image(pixels, keep)
    pixels[:, :, :8, 8:16] += 1.0  # patch 1
    torch.testing.assert_close(model.encode_image(pixels, keep), image)
    everything = torch.arange(9).expand(len(pixels), -1)
    torch.testing.assert_close(model.encode_image(pixels, everything), model.encode_image(pixels))


def test_save_and_load_are_exact(tmp_path):
    model = small(bias=True)
    model.config = dataclasses.replace(model.config, max_scale=50.0)
    model.save(tmp_path)
    again = TwoTower.load(tmp_path)
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_scale_is_clamped():
    model = small()
    model.logit_scale.data.fill_(9.0)
    assert model.scale.item() == pytest.approx(100.0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    config = with_tokenizer(
        check(ModelConfig, {"preset": name, "image": {"layers": 1}, "text": {"layers": 1}}), 600, 1, 2, 2
    )
    with torch.device("meta"):
        model = TwoTower(config)
    assert config.image.layers == 1  # what is written wins over the preset
    assert model.visual_projection.out_features == config.embed


def test_another_architecture_is_refused(tmp_path):
    small().save(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for width, reason in ((16, "another architecture.*there and.*here"), (64, "parameters or more")):
        tree["vision_config"]["hidden_size"] = width
        (tmp_path / "config.json").write_text(json.dumps(tree))
        with pytest.raises(UserError, match=reason):
            TwoTower.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        TwoTower.load(tmp_path)


def test_bad_configs_name_their_fault():
    with pytest.raises(ConfigError, match="image.size 30 is not a multiple of image.patch 8"):
        check(ModelConfig, {"preset": "icons", "image": {"size": 30}})
    with pytest.raises(ConfigError, match="no preset 'ViT-B/15'; did you mean ViT-B/16"):
        check(ModelConfig, {"preset": "ViT-B/15"})
