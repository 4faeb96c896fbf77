"""The tower of arrays: equal to transformers' encoder over the same tokens, blind to padding, saved, refused."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from mmclr.config import ConfigError, check
from mmclr.errors import UserError
from mmclr.features.student import Student
from mmclr.models import init
from mmclr.models.config import ArrayConfig, ModelConfig
from mmclr.models.formats import open_clip, sizes
from mmclr.models.two_tower import TwoTower
from tests import bounds
from tests.models.test_clip import SMALL

SIGNALS = {"channels": 3, "length": 12, "patch": 4}
TOWER = {"width": 32, "layers": 3, "heads": 4, "mlp": 48}


def tree(**array):
    return {**SMALL, "image": {**TOWER, "array": {**SIGNALS, **array}}}


def model(seed=0, **array):
    torch.manual_seed(seed)
    return TwoTower(check(ModelConfig, tree(**array))).double().eval()


def values(rows=5, channels=3, length=12, seed=1):
    return torch.randn(rows, channels, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peer(tower, tokens):
    """Return what transformers' encoder makes of the class token, in float64."""
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPEncoder

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    encoder = CLIPEncoder(CLIPVisionConfig(**sizes, hidden_act="gelu", attn_implementation="sdpa")).double().eval()
    encoder.load_state_dict(tower.encoder.state_dict())
    x = encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
    return tower.post_layernorm(x[:, 0])


@torch.no_grad()
def test_patches_are_steps_of_all_channels_and_the_rest_is_transformers_encoder():
    tower, x = model().vision_model, values()
    weight = tower.embeddings.patch_embedding.weight.numpy()  # [width, C, patch]
    cut = x.numpy().reshape(5, 3, 3, 4)  # [b, C, P, patch]
    tokens = np.einsum("bcpt,wct->bpw", cut, weight)
    positions = tower.embeddings.position_embedding.weight
    tokens = torch.from_numpy(tokens) + positions[1:]
    first = (tower.embeddings.class_embedding + positions[0]).expand(5, 1, -1)
    torch.testing.assert_close(tower(x), peer(tower, torch.cat([first, tokens], 1)), atol=1e-12, rtol=0)


@torch.no_grad()
def test_values_of_a_row_are_tokens():
    tower = model(channels=7, length=1, patch=1).vision_model
    x = values(channels=7, length=1)
    weight = tower.embeddings.patch_embedding.weight[:, :, 0]  # [width, C]
    positions = tower.embeddings.position_embedding.weight
    tokens = torch.einsum("bc,wc->bcw", x[..., 0], weight) + positions[1:]
    first = (tower.embeddings.class_embedding + positions[0]).expand(5, 1, -1)
    torch.testing.assert_close(tower(x), peer(tower, torch.cat([first, tokens], 1)), atol=1e-12, rtol=0)


def short_tower(tower, patches):
    """Return the tower that knows the first positions alone."""
    made = copy.deepcopy(tower)
    made.embeddings.position_embedding.weight = torch.nn.Parameter(
        tower.embeddings.position_embedding.weight[: 1 + patches]
    )
    return made


@pytest.mark.parametrize("steps", [1, 4, 6, 8])
def test_a_short_array_is_seen_as_if_there_were_no_padding(steps):
    """In value and gradient; a patch that is filled in part has the mean, 0, behind the end."""
    tower, x = model().vision_model, values(rows=3)
    padded = x.clone()
    padded[:, :, steps:] = torch.nan
    patches = -(-steps // 4)
    alone = torch.nn.functional.pad(x[:, :, :steps], (0, 4 * patches - steps))
    less = short_tower(tower, patches)
    found, expected = tower(padded), less(alone)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert torch.equal(tower.filled(padded).sum(1), torch.full((3,), patches))
    found.sin().sum().backward()
    expected.sin().sum().backward()
    for name, p in tower.named_parameters():
        other = less.get_parameter(name).grad
        own = p.grad[: 1 + patches] if "position" in name else p.grad
        torch.testing.assert_close(own, other, atol=1e-11, rtol=0)
    assert not tower.embeddings.position_embedding.weight.grad[1 + patches :].any()


@torch.no_grad()
def test_all_tokens_say_of_the_first_what_the_tower_says():
    tower, x = model().vision_model, values()
    x[0, :, 5:] = torch.nan
    torch.testing.assert_close(tower.post_layernorm(tower.tokens(x)[:, 0]), tower(x), atol=1e-12, rtol=0)


@torch.no_grad()
def test_rows_do_not_depend_on_their_neighbours():
    made, x = model(), values()
    x[0, :, 5:] = torch.nan
    together = made.encode_image(made.normalise(x))
    for row in range(5):
        torch.testing.assert_close(
            made.encode_image(made.normalise(x[row : row + 1]))[0], together[row], atol=1e-12, rtol=0
        )


def test_numbers_are_normalised_by_channel():
    config = check(ModelConfig, {**tree(), "image": {**tree()["image"], "mean": [1, 2, 3], "std": [2, 4, 8]}})
    x = values()
    x[0, :, 5:] = torch.nan
    expected = (x.numpy() - np.array([1, 2, 3])[:, None]) / np.array([2, 4, 8])[:, None]
    np.testing.assert_allclose(TwoTower(config).double().normalise(x).numpy(), expected, atol=1e-15)


def test_nobody_need_say_mean_and_std():
    assert check(ModelConfig, tree()).image.mean == (0.0, 0.0, 0.0)
    assert check(ModelConfig, tree(channels=2)).image.std == (1.0, 1.0)


def test_a_folder_holds_it(tmp_path):
    made = model().float()
    made.save(tmp_path)
    read = TwoTower.load(tmp_path)
    assert read.config == made.config
    x = values().float()
    assert torch.equal(read.encode_image(x), made.encode_image(x))


@pytest.mark.parametrize(("length", "kept"), [(8, 3), (12, 4)])
def test_a_longer_model_of_the_same_kind_is_taken_in(tmp_path, length, kept):
    """A shorter one reads arrays that fit into it as the longer one did."""
    made = model()
    made.save(tmp_path)
    new = model(seed=1, length=length)
    init.start(new, init.InitConfig(source=str(tmp_path)))
    x = values(length=12)
    x[:, :, 7:] = torch.nan
    with torch.no_grad():
        expected, found = made.float().encode_image(x.float()), new.float().encode_image(x[:, :, :length].float())
    torch.testing.assert_close(found, expected, atol=bounds.bound(terms=16), rtol=0)
    assert len(new.vision_model.embeddings.position_embedding.weight) == kept


def test_positions_of_a_longer_one_are_stretched(tmp_path):
    made = model()
    made.save(tmp_path)
    new = model(seed=1, length=20)
    init.start(new, init.InitConfig(source=str(tmp_path)))
    old = made.float().vision_model.embeddings.position_embedding.weight.detach()
    found = new.vision_model.embeddings.position_embedding.weight.detach().float()
    places = np.clip((np.arange(5) + 0.5) * 3 / 5 - 0.5, 0, 2)
    expected = np.stack([np.interp(places, np.arange(3), column) for column in old[1:].T.numpy()], 1)
    torch.testing.assert_close(found[1:], torch.from_numpy(expected).float(), atol=1e-6, rtol=0)
    assert torch.equal(found[0], old[0])


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({"channels": 2}, {}, "reads 2 channels, patch 4, and this one 3 channels, patch 4"),
        ({"patch": 3}, {}, "reads 3 channels, patch 3, and this one"),
        ({"length": 1, "patch": 1}, {"patch": 1}, "reads rows of 3 channels"),
        (None, {}, "reads images, and this one 3 channels"),
    ],
)
def test_another_kind_is_not_taken_in(tmp_path, there, here, says):
    source = check(ModelConfig, SMALL) if there is None else check(ModelConfig, tree(**there))
    TwoTower(source).save(tmp_path)
    config = check(ModelConfig, tree(**here))
    with pytest.raises(UserError, match=f"init.*{says}.*init.parts=text"):
        init.check_source(config, init.InitConfig(source=str(tmp_path)))
    init.check_source(config, init.InitConfig(source=str(tmp_path), parts="text"))


@pytest.mark.parametrize(
    ("image", "more", "says"),
    [
        ({"array": {**SIGNALS, "patch": 5}}, {}, "length 12 is not a multiple of patch 5"),
        ({"array": {"channels": 3, "length": 1, "patch": 2}}, {}, "length 1 is not a multiple of patch 2"),
        ({"array": {"channels": 0, "length": 12}}, {}, "channels"),
        ({"array": {"length": 12}}, {}, "channels"),
        ({"array": SIGNALS, "mean": [0.0, 1.0]}, {}, "mean: 2 numbers for 3 channels"),
        ({"array": SIGNALS, "std": [0.0, 1.0, 1.0]}, {}, "std"),
        ({"array": SIGNALS, "foreign": {"source": "transformers:somewhere"}}, {}, "leave out foreign, or array"),
        ({"array": SIGNALS}, {"captioner": {}}, "captioner: it writes of images"),
    ],
)
def test_what_cannot_be_is_said(image, more, says):
    with pytest.raises(ConfigError, match=says):
        check(ModelConfig, {**SMALL, "image": {**TOWER, **image}, **more})


def test_open_clip_has_no_place_for_it():
    with pytest.raises(UserError, match="open_clip has no tower for arrays"):
        open_clip.write_config(check(ModelConfig, tree()), False)


def test_its_size_is_known_before_it_is_built():
    for array in ({}, {"channels": 7, "length": 1, "patch": 1}):
        config = check(ModelConfig, tree(**array))
        at_least = sum(sizes._parameters(config.image))
        has = sum(p.numel() for p in TwoTower(config).vision_model.parameters())
        assert 0.9 * has < at_least <= has


def test_patches_behind_the_end_are_left_out_first():
    made = model().train()
    student = Student(made, patch_dropout=1 / 3)
    x = values(rows=64)
    x[:32, :, 6:] = torch.nan  # two of three patches are filled
    batch = _Batch(x)
    kept = student._keep(batch)
    assert kept.shape == (64, 1, 2)
    assert set(map(tuple, kept[:32, 0].sort(-1).values.tolist())) == {(0, 1)}
    assert set(map(tuple, kept[32:, 0].sort(-1).values.tolist())) == {(0, 1), (0, 2), (1, 2)}
    features = made.encode_image(x, kept[:, 0])
    torch.testing.assert_close(features[:32], made.encode_image(x[:32]), atol=1e-12, rtol=0)


class _Batch:
    views, counts = None, {"image": 1}

    def __init__(self, x):
        self.pixels, self.index = x, torch.arange(len(x))

    def seen(self, name):
        return self.pixels[:, None]


def test_two_stages_read_the_same_arrays():
    from mmclr.models.ensemble import Stages

    Stages([model(), model(seed=1)])
    with pytest.raises(UserError, match=r"image\.array differs"):
        Stages([model(), model(length=8)])


def test_a_config_of_before_has_no_array():
    config = check(ModelConfig, SMALL)
    assert config.image.array is None
    assert config.image.patches == 9
    array = dataclasses.replace(config.image, array=ArrayConfig(**SIGNALS))
    assert array.patches == 3
