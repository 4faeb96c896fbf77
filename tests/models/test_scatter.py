"""The scattering tower: what it sees, that it learns, its folder, what it is taken for, refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from mmclr.config import ConfigError, check
from mmclr.data.settings import DataConfig
from mmclr.errors import UserError
from mmclr.export import forms
from mmclr.features.student import Student
from mmclr.models import init
from mmclr.models.config import ModelConfig
from mmclr.models.formats import open_clip, sizes
from mmclr.models.layer_depth import depths
from mmclr.models.two_tower import TwoTower
from mmclr.train.estimate import forecast
from mmclr.train.run import RunConfig
from tests.models.test_clip import SMALL
from tests.models.test_scattering import scattered

TOWER = {"size": 16, "width": 64, "scatter": {"J": 2, "L": 4, "blocks": 2}}


def tree(**image):
    return {**SMALL, "image": {**TOWER, **image}}


def model(seed=0, **image):
    torch.manual_seed(seed)
    return TwoTower(check(ModelConfig, tree(**image))).eval()


def pixels(rows=5, size=16, seed=1, channels=3):
    return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_it_sees_images_mirrored_at_their_borders():
    tower, x = model().vision_model, pixels()
    seen = []
    tower.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(x)
    for row, channel in ((0, 0), (3, 2)):
        mirrored = np.pad(x[row, channel].numpy().astype(float), 4, mode="reflect")
        expected = scattered(mirrored, 2, 4)[:, 1:-1, 1:-1]
        found = seen[0][row].unflatten(0, (3, 25))[channel]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_has_the_sizes_of_the_paper():
    c = {"size": 32, "width": 2048, "scatter": {}}
    with torch.device("meta"):
        tower = TwoTower(check(ModelConfig, tree(**c))).vision_model
    assert tower.stem.weight.shape == (256, 867, 3, 3)
    assert [block.conv2.weight.shape for block in tower.blocks()] == [(128, 128, 3, 3)] * 30


@torch.no_grad()
def test_wavelets_stay_in_float32_where_the_rest_is_in_less():
    made, x = model(), pixels()
    seen = []
    made.vision_model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.encode_image(x)
    with torch.autocast("cpu", torch.bfloat16):
        made.encode_image(x)
    assert torch.equal(*seen)


def test_it_learns_what_small_images_show():
    """Eight kinds of stripes, by direction and width, in noise: 30 steps tell them apart, of images never seen too."""
    made = model(scatter={"J": 2, "L": 4, "blocks": 1}).train()
    optimizer = torch.optim.AdamW(made.vision_model.parameters(), 3e-3)
    head = torch.nn.Linear(64, 8)
    optimizer.add_param_group({"params": head.parameters()})
    draw = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")

    def images(count):
        kind = torch.randint(8, (count,), generator=draw)
        angle, step = (kind % 4) * torch.pi / 4, 1.0 + kind // 4
        along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
        phase = 6.3 * torch.rand(count, 1, 1, generator=draw)
        stripes = (along * step[:, None, None] + phase).sin()[:, None].expand(-1, 3, -1, -1)
        return stripes + 0.5 * torch.randn(count, 3, 16, 16, generator=draw), kind

    for _ in range(30):
        seen, kind = images(32)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(made.vision_model(seen)), kind).backward()
        assert all(p.grad.any() for p in made.vision_model.parameters())
        optimizer.step()
    made.eval()
    with torch.no_grad():
        seen, kind = images(256)
        assert (head(made.vision_model(seen)).argmax(1) == kind).float().mean() > 0.5  # chance: 1 / 8


def test_a_folder_holds_it(tmp_path):
    made = model().train()
    made.encode_image(pixels())  # the batch norms' statistics move
    made.save(tmp_path)
    read = TwoTower.load(tmp_path)
    assert read.config == made.config
    assert torch.equal(read.encode_image(pixels()), made.eval().encode_image(pixels()))
    assert not any("wavelets" in name or "lowpass" in name for name in made.state_dict())


@torch.no_grad()
def test_its_weights_go_into_a_tower_of_another_size(tmp_path):
    made = model()
    made.save(tmp_path)
    new = model(seed=1, size=32, layers=7)
    init.start(new, init.InitConfig(source=str(tmp_path)))
    for name, value in made.vision_model.state_dict().items():
        assert torch.equal(new.vision_model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"scatter": {"J": 2, "L": 4, "blocks": 3}}, r"set model\.image\.scatter=\{J:2,L:4,blocks:2\}"),
        ({"channels": 1}, r"set model\.image\.channels=3"),
        ({"scatter": None, "patch": 8, "heads": 4}, r"set .*model\.image\.scatter=\{J:2"),
    ],
)
def test_other_towers_cannot_start_from_it(tmp_path, image, said):
    model().save(tmp_path)
    with pytest.raises(UserError, match=said):
        init.start(model(**image), init.InitConfig(source=str(tmp_path), parts="image"))


def test_its_depth_is_that_of_its_residual_blocks():
    found = depths(model().vision_model)
    assert {found["norm.weight"], found["stem.weight"], found["stem_norm.bias"]} == {0}
    assert (found["layers.0.conv1.weight"], found["layers.1.norm2.bias"]) == (1, 2)


def test_forecast_says_what_it_keeps():
    made = model(width=256, scatter={"J": 2, "L": 1, "blocks": 24})
    tower, config = made.vision_model.train(), made.config.image
    found = {}
    weights = {p.data_ptr() for p in tower.parameters()}

    def keep(x):
        if x.data_ptr() not in weights and x.numel() > 1000:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes(), x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        tower(pixels(8))
    told = 8 * forecast.scattered(config, 4.0)
    before = {"J": 2, "L": 16, "blocks": 1}  # the transform is larger than what one block keeps
    assert told == pytest.approx(sum(size for size, _ in found.values()), rel=0.1)
    assert forecast.scattered(dataclasses.replace(config, scatter=type(config.scatter)(**before)), 4.0) > told / 8


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"size": 18}, r"image\.size 18 is not a multiple of 2\^J = 4 \(image\.scatter\.J\)"),
        ({"size": 8}, r"image\.scatter\.J 2 leaves 2 x 2 places of images of 8 pixels"),
        ({"width": 72}, r"image\.width 72 is not a multiple of 16"),
        ({"size": 65536}, r"image\.scatter: its filters would be 34,\d+,\d+,\d+ numbers"),
        ({"scatter": {"J": 0}}, r"image\.scatter\.J"),
        ({"array": {"channels": 3, "length": 8}}, r"scatter: it is a tower of its own"),
        ({"foreign": {"source": "transformers:x"}}, r"scatter: it is a tower of its own"),
    ],
)
def test_configs_that_cannot_be(image, said):
    with pytest.raises(ConfigError, match=said):
        check(ModelConfig, tree(**image))


def test_what_reads_tokens_of_images_is_refused():
    with pytest.raises(ConfigError, match=r"captioner: it reads tokens of an image, and image\.scatter gives none"):
        check(ModelConfig, {**tree(), "captioner": {}})
    run = {"data": {"train": "x.tar", "batch": 4}, "model": tree(), "steps": 1, "patch_dropout": 0.5}
    with pytest.raises(ConfigError, match=r"patch_dropout: model\.image\.scatter has no patches to leave out"):
        check(RunConfig, run)
    assert check(RunConfig, {**run, "patch_dropout": 0}).data == check(DataConfig, run["data"])
    with pytest.raises(UserError, match=r"set patch_dropout: 0"):
        model().encode_image(pixels(), torch.zeros(5, 3, dtype=torch.long))
    assert "view_tokens" not in Student(model(), sets=["views"]).provides


def test_other_libraries_have_no_such_tower():
    with pytest.raises(UserError, match=r"none has a scattering transform \(model\.image\.scatter\).*onnx"):
        forms.form(model())
    with pytest.raises(UserError, match="--halves"):
        forms.halves(model())
    with pytest.raises(UserError, match="open_clip has no scattering transform"):
        open_clip.write_config(model().config, bias=False)


def test_a_folder_that_asks_for_more_than_it_holds_is_refused(tmp_path):
    made = model()
    made.save(tmp_path)
    big = dataclasses.replace(made.config.image, width=1 << 14, size=16)
    with pytest.raises(UserError, match=r"its config asks for a image tower of 2 layers and \d"):
        sizes.check(dataclasses.replace(made.config, image=big), tmp_path, ("model.safetensors",))


@pytest.mark.slow
def test_onnx_computes_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from mmclr.export import graphs

    made, x = model(), pixels(7)
    graphs.trace(made, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "image.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"pixel_values": x.numpy()})[0])
    torch.testing.assert_close(found, made.encode_image(x).detach(), atol=1e-5, rtol=0)
