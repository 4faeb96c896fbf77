"""Images of other channels than three: the config, the towers, and what released RGB weights become for them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from mmclr.config import ConfigError, check
from mmclr.errors import UserError
from mmclr.features.frozen import Frozen
from mmclr.models.config import MEAN, STD, ModelConfig
from mmclr.models.foreign import build
from mmclr.models.formats import sizes
from mmclr.models.init import InitConfig, check_source, start
from mmclr.models.rechannel import Scale, input_convolution, rechannel
from mmclr.models.resolve import resolve
from mmclr.models.two_tower import TwoTower
from tests import bounds
from tests.exports import tokenizer

SMALL = {"size": 16, "patch": 8, "width": 32, "layers": 2, "heads": 2, "mlp": 64}
TEXT = {"context": 8, "width": 32, "layers": 1, "heads": 2, "mlp": 64, "vocab": 20, "bos": 18, "eos": 19, "pad": 19}
STATISTICS = {
    1: {"mean": [0.3], "std": [0.2]},
    5: {"mean": [0.1, 0.2, 0.3, 0.4, 0.7], "std": [0.3, 0.2, 0.1, 0.4, 0.5]},
}
ROUNDING = bounds.bound(terms=512)


def config(image=None, **more):
    return check(ModelConfig, {"embed": 16, "image": {**SMALL, **(image or {})}, "text": TEXT, **more})


def model(image=None, seed=0):
    torch.manual_seed(seed)
    made = TwoTower(config(image))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made.eval()


def grey(seed=3, size=16):
    return torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(seed))


def test_what_the_config_says_without_being_told():
    assert (config().image.mean, config().image.std) == (MEAN, STD)
    five = config({"channels": 5}).image
    assert (five.mean, five.std) == ((0.5,) * 5, (0.25,) * 5)
    assert five.deep
    assert not config().image.deep
    assert config({"intensity": {"low": 0, "high": 4095}}).image.deep


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ({"channels": 0}, r"image\.channels: .*greater than or equal to 1"),
        ({"channels": 65}, r"image\.channels: .*less than or equal to 64"),
        ({"channels": 5, "mean": [0.1, 0.2]}, "mean: 2 numbers for 5 channels; give one for each, or leave it out"),
        ({"std": [0.1, 0.0, 0.1]}, "std: a channel is divided by it"),
    ],
)
def test_channels_that_cannot_be_are_a_sentence(image, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config(image)


@pytest.mark.parametrize("channels", [1, 3, 5, 64])
def test_pixels_are_normalised_by_channel(channels):
    """uint8 and the same numbers as floats in [0, 1] are the same, as a formula in numpy has them."""
    draw = np.random.default_rng(0)
    mean, std = draw.uniform(0.2, 0.8, channels), draw.uniform(0.1, 0.5, channels)
    made = model({"channels": channels, "mean": mean.tolist(), "std": std.tolist()})
    whole = torch.from_numpy(draw.integers(0, 256, (2, channels, 16, 16), dtype=np.uint8))
    expected = (whole.double().numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    for pixels in (whole, whole.float() / 255):
        np.testing.assert_allclose(made.normalise(pixels).numpy(), expected, atol=1e-5, rtol=1e-6)
    assert made.encode_image(made.normalise(whole)).shape == (2, 16)


def test_a_model_folder_keeps_channels_statistics_and_intensity(tmp_path):
    image = {"channels": 5, "intensity": {"low": 0, "high": 4095}, **STATISTICS[5]}
    made = model(image)
    made.save(tmp_path)
    again = TwoTower.load(tmp_path)
    assert again.config == made.config
    pixels = torch.rand(2, 5, 16, 16)
    assert torch.equal(again.encode_image(pixels), made.encode_image(pixels))
    assert sum(sizes._parameters(made.config.image)) < sum(p.numel() for p in made.vision_model.parameters())


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("there", [1, 3])
def test_filters_for_other_channels_are_the_formula(there, channels):
    """w'_n = s'_n / N sum_c w_c / s_c, written out in float64; N equal channels answer as C equal ones did."""
    draw = np.random.default_rng(0)
    weight = torch.from_numpy(draw.normal(size=(6, there, 4, 4)))
    old = Scale(draw.uniform(0.2, 0.8, there), draw.uniform(0.1, 0.5, there))
    new = Scale(draw.uniform(0.2, 0.8, channels), draw.uniform(0.1, 0.5, channels))
    made, constant = rechannel(weight, old, new)
    for n in range(channels):
        expected = sum(weight[:, c] / old.std[c] for c in range(there)) * new.std[n] / channels
        np.testing.assert_allclose(made[:, n], expected, rtol=1e-12)
    x = torch.from_numpy(draw.uniform(size=(4, 4)))
    before = sum((weight[:, c] * (x - old.mean[c]) / old.std[c]).sum((1, 2)) for c in range(there))
    after = sum((made[:, n] * (x - new.mean[n]) / new.std[n]).sum((1, 2)) for n in range(channels)) + constant
    np.testing.assert_allclose(after, before, atol=1e-12)


def test_with_equal_scales_grey_is_the_sum_and_five_bands_three_fifths_of_the_mean():
    weight = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    for channels, factor in ((1, 3), (5, 3 / 5)):
        made, constant = rechannel(weight, Scale([0.5] * 3, [0.25] * 3), Scale([0.5] * channels, [0.25] * channels))
        assert torch.allclose(made, factor * weight.mean(1, keepdim=True).expand_as(made), atol=1e-12)
        assert constant.abs().max() < 1e-12


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("channels", [1, 5])
def test_a_grey_image_keeps_its_embedding_in_a_run_that_starts_from_rgb(channels, size, tmp_path):
    source = model()
    source.save(tmp_path)
    image = {"channels": channels, "size": size, **STATISTICS[channels]}
    check_source(config(image), InitConfig(source=str(tmp_path)))
    made = model(image, seed=1)
    start(made, InitConfig(source=str(tmp_path)))
    if size != 16:  # of another size too: as the source is at that size
        source = model({"size": size}, seed=1)
        start(source, InitConfig(source=str(tmp_path)))
    x = grey(size=size)
    seen = made.encode_image(made.normalise(x.expand(-1, channels, -1, -1)))
    before = source.encode_image(source.normalise(x.expand(-1, 3, -1, -1)))
    assert (seen - before).abs().max() < ROUNDING
    assert torch.equal(made.text_projection.weight, source.text_projection.weight)


def test_weights_for_five_channels_are_not_taken_for_others(tmp_path):
    model({"channels": 5}).save(tmp_path)
    for channels in (1, 3, 7):
        with pytest.raises(UserError, match=r"trained on images of 5 channels.*set model\.image\.channels=5"):
            check_source(config({"channels": channels}), InitConfig(source=str(tmp_path)))
    check_source(config({"channels": 3}), InitConfig(source=str(tmp_path), parts="text"))


def test_a_preset_folder_with_other_channels_leaves_its_statistics(tmp_path):
    model({"mean": [0.1, 0.2, 0.3]}).save(tmp_path)
    made = resolve(check(ModelConfig, {"preset": str(tmp_path), "image": {"channels": 2}}))
    assert (made.image.channels, made.image.mean, made.image.width) == (2, (0.5, 0.5), 32)
    assert resolve(check(ModelConfig, {"preset": str(tmp_path)})).image.mean == (0.1, 0.2, 0.3)


def test_a_teacher_sees_the_images_of_the_run(tmp_path):
    model({"channels": 5}).save(tmp_path)
    tokenizer().save(tmp_path)
    with pytest.raises(UserError, match=r"its image\.channels is 5, here 3"):
        Frozen(str(tmp_path), tokenizer(), config().image)
    five = config({"channels": 5, "size": 32}).image
    provider = Frozen(str(tmp_path), tokenizer(), five)
    pixels = torch.rand(2, 5, 32, 32)
    small = nn.functional.interpolate(pixels, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(provider._seen(pixels), provider.model.normalise(small))


# towers of other libraries

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.4, 0.2], "size": {"height": 16, "width": 16}}
D = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**D, image_size=16, patch_size=8)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(HALF))
    return folder


def foreign(source, **image):
    tree = {"source": f"transformers:{source}", "pool": "cls"}
    torch.manual_seed(1)
    return TwoTower(resolve(config({"foreign": tree, **image}))).eval()


def test_a_grey_image_keeps_its_feature_in_a_tower_of_transformers(vit, tmp_path):
    """The convolution has a bias, which takes the constant; the config says num_channels where the tower is saved."""
    rgb, five = foreign(vit), foreign(vit, channels=5, **STATISTICS[5])
    for made in (rgb, five):
        start(made, InitConfig())
    x = grey()
    before = rgb.vision_model(rgb.normalise(x.expand(-1, 3, -1, -1)))
    assert (five.vision_model(five.normalise(x.expand(-1, 5, -1, -1))) - before).abs().max() < ROUNDING
    assert five.vision_model.model.config.num_channels == 5
    five.save(tmp_path)
    again = TwoTower.load(tmp_path)
    assert again.config.image == five.config.image
    pixels = torch.rand(2, 5, 16, 16)
    assert torch.equal(again.encode_image(pixels), five.encode_image(pixels))


def test_a_run_with_a_foreign_tower_starts_another_for_other_channels(vit, tmp_path):
    rgb = foreign(vit)
    rgb.save(tmp_path)
    five = foreign(vit, channels=1, **STATISTICS[1])
    start(five, InitConfig(source=str(tmp_path)))
    x = grey()
    before = rgb.encode_image(rgb.normalise(x.expand(-1, 3, -1, -1)))
    assert (five.encode_image(five.normalise(x)) - before).abs().max() < ROUNDING


def test_a_tower_without_a_bias_or_a_known_scale_is_refused(vit, tmp_path):
    import transformers

    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**D, image_size=16, patch_size=8))
    clip.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HALF))
    with pytest.raises(UserError, match=r"no bias.*set model\.image\.foreign\.trained: false"):
        start(foreign(tmp_path, channels=5), InitConfig())
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="does not say how the pixels"):
        start(foreign(tmp_path, channels=5), InitConfig())
    with pytest.raises(UserError, match="set model.image.mean and .std"):
        foreign(tmp_path)


def test_timm_through_open_clip_takes_other_channels():
    """timm's own in_chans makes the same tower; a ResNet, whose border is no grey, keeps its weights for RGB alone."""
    vision = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "", "timm_proj": "linear"}
    tower = {"embed_dim": 16, "vision_cfg": vision}
    own = {"library": "open_clip", "projection": False, "architecture": tower}
    image = config({"size": 224, "patch": 16, "width": 16, "channels": 5, "foreign": own}, embed=16).image
    made = build.image_tower(image).eval()
    assert made(torch.rand(1, 5, 224, 224)).shape == (1, 16)
    name, convolution = input_convolution(made, 5, "it")
    import timm

    peer = timm.create_model("vit_tiny_patch16_224", in_chans=5)
    assert name == "model.trunk.patch_embed.proj"
    assert {n: p.shape for n, p in peer.patch_embed.named_parameters()} == {
        "proj.weight": convolution.weight.shape,
        "proj.bias": convolution.bias.shape,
    }


def test_a_tower_whose_input_cannot_be_told_is_refused():
    two = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1))
    with pytest.raises(UserError, match="the tower has 2 convolutions over 3 channels"):
        input_convolution(two, 3, "the tower")
