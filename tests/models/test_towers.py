"""Whatever works block by block works on the blocks of every library: each is asked of each."""

import pytest
import torch
from torch import nn

from mmclr.errors import UserError
from mmclr.models import activation_checkpointing
from mmclr.models import compile as compiling
from mmclr.models.clip.arrays import ArrayTower
from mmclr.models.clip.towers import TextTower, VisionTower
from mmclr.models.config import ArrayConfig, Foreign, ImageConfig, TextConfig
from mmclr.models.foreign.inputs import valid
from mmclr.models.foreign.libraries import open_clip, transformers
from mmclr.models.freeze import LockConfig, lock
from mmclr.models.layer_depth import depths
from mmclr.models.tower import Tower
from mmclr.train.optimizer import OptimConfig, build
from mmclr.train.strategies import fsdp, zero

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
SEEN = {**SIZE, "image_size": 16, "patch_size": 8}
READ = {
    **SIZE,
    "vocab_size": 40,
    "max_position_embeddings": 20,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
VIT = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 3, "head_width": 8}
CAUSAL = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 3}
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "head_width": 8, "image_size": 32}
TIMM = {"image_size": 32, "timm_pool": "", "timm_proj": "linear"}
OURS = {"width": 16, "layers": 3, "heads": 2, "mlp": 24}
ARRAYS = ImageConfig(array=ArrayConfig(channels=2, length=12, patch=3), **OURS)
TOWERS = {  # the library and its config of the tower
    ("image", "ours"): None,
    ("image", "arrays"): None,
    ("image", "vit"): ("transformers", {**SEEN, "model_type": "vit"}),
    ("image", "dinov2"): ("transformers", {**SEEN, "model_type": "dinov2"}),
    ("image", "clip"): ("transformers", {**SEEN, "model_type": "clip_vision_model"}),
    ("image", "siglip"): ("transformers", {**SEEN, "model_type": "siglip_vision_model"}),
    ("image", "open_clip"): ("open_clip", {**VIT, "attentional_pool": True, "attn_pooler_heads": 2}),
    ("image", "timm"): ("open_clip", {**TIMM, "timm_model_name": "test_vit", "image_size": 160}),
    ("text", "ours"): None,
    ("text", "bert"): ("transformers", {**READ, "model_type": "bert"}),
    ("text", "roberta"): ("transformers", {**READ, "model_type": "roberta"}),
    ("text", "clip"): ("transformers", {**READ, "model_type": "clip_text_model"}),
    ("text", "siglip"): ("transformers", {**READ, "model_type": "siglip_text_model"}),
    ("text", "open_clip"): ("open_clip", {**CAUSAL, "proj_bias": True}),
}
PLACES = {  # of the blocks, by their type
    "Block": ("encoder.layers", "model.trunk.blocks"),
    "ViTLayer": ("model.layers",),
    "Dinov2Layer": ("model.encoder.layer",),
    "BertLayer": ("model.encoder.layer",),
    "RobertaLayer": ("model.encoder.layer",),
    "CLIPEncoderLayer": ("model.encoder.layers",),
    "SiglipEncoderLayer": ("model.encoder.layers",),
    "ResidualAttentionBlock": ("model.transformer.resblocks",),
}
STAGED = {  # what is made of stages: its config, the type of its blocks, the places of its stages
    "convnext": (
        {**TIMM, "timm_model_name": "test_convnext"},
        "ConvNeXtBlock",
        [f"trunk.stages.{n}" for n in range(4)],
    ),
    "resnet": (RESNET, "Bottleneck", [f"layer{n}" for n in range(1, 5)]),
}
LIBRARIES = {"transformers": transformers, "open_clip": open_clip}
EVERY = pytest.mark.parametrize(("part", "name"), TOWERS)


class Two(nn.Module):
    """As much of a model as is asked of one here."""

    def __init__(self, tower):
        super().__init__()
        self.locked = []
        self.text_model = self.vision_model = tower
        self.text_projection = self.visual_projection = nn.Linear(16, 16)


def foreign(library, architecture, part):
    if library == "open_clip":
        architecture = {"embed_dim": 16, f"{'vision' if part == 'image' else 'text'}_cfg": architecture}
    return Foreign(library=library, architecture=architecture, pool="mean" if library == "transformers" else "")


def made_of(part, given, name="ours"):
    """Return the tower that a library makes of its config; of ours without one."""
    torch.manual_seed(0)
    if part == "image":
        if given is None:
            return ArrayTower(ARRAYS) if name == "arrays" else VisionTower(ImageConfig(size=16, patch=8, **OURS))
        return LIBRARIES[given[0]].Image(ImageConfig(size=given[1]["image_size"], foreign=foreign(*given, part)))
    if given is None:
        return TextTower(TextConfig(context=12, vocab=40, **OURS))
    return LIBRARIES[given[0]].Text(TextConfig(context=12, vocab=40, eos=3, foreign=foreign(*given, part)))


def tower(part, name):
    made = made_of(part, TOWERS[part, name], name)
    for p in made.parameters():
        nn.init.normal_(p, std=0.3)
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made.train()


def inputs(part, name, rows=3, width=9):
    """Return images, arrays of which one is short, or texts of different lengths with an end-of-text token, 3."""
    g = torch.Generator().manual_seed(rows)
    if name == "arrays":
        short = (torch.arange(12) >= 7) & (torch.arange(rows) == 0)[:, None, None]
        return (torch.randn(rows, 2, 12, generator=g).masked_fill(short, torch.nan),)
    if part == "image":
        return (torch.randn(rows, 3, *[160 if name == "timm" else 16] * 2, generator=g),)
    lengths = torch.randint(2, width + 1, (rows,), generator=g)
    tokens = torch.randint(4, 40, (rows, width), generator=g).masked_fill(~valid(lengths, width), 0)
    tokens[torch.arange(rows), lengths - 1] = 3
    return tokens, lengths


def rates(module):
    """Return each parameter's factor on the rate with a layer decay of one half."""
    groups = build(OptimConfig(layer_decay=0.5), module).param_groups
    return {id(p): group["factor"] for group in groups for p in group["params"]}


def gradients(tower, *given):
    """Return the feature and every weight's gradient."""
    tower.zero_grad()
    feature = tower(*given)
    feature.sin().sum().backward()
    return feature.detach(), {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}


@EVERY
def test_a_tower_knows_its_blocks(part, name):
    made = tower(part, name)
    found = list(made.blocks())
    (kind,) = {type(block).__name__ for block in found}
    places = {name: module for name, module in made.named_modules() if name in PLACES[kind]}
    assert [list(series) for series in places.values()] == [found]
    assert list(made.stages()) == found


@pytest.mark.parametrize("name", STAGED)
def test_stages_are_the_depth_of_what_is_made_of_them(name):
    architecture, kind, places = STAGED[name]
    made = made_of("image", ("open_clip", architecture))
    assert list(made.stages()) == [made.model.get_submodule(place) for place in places]
    assert {type(block).__name__ for block in made.blocks()} == {kind}
    assert len(made.blocks()) > len(places)
    depth = depths(made)
    for number, place in enumerate(places, 1):
        assert {d for name, d in depth.items() if name.startswith(f"model.{place}.")} == {number}


@EVERY
def test_muon_steps_every_matrix_of_the_blocks_and_nothing_else(part, name):
    made = tower(part, name)
    groups = build(OptimConfig(kind="muon"), made).param_groups
    orthogonal = {id(p) for group in groups if group.get("orthogonal") for p in group["params"]}
    inside = {id(p) for block in made.blocks() for p in block.parameters() if p.ndim == 2}
    assert orthogonal == inside
    assert len(inside) >= 4 * len(made.blocks())


@EVERY
def test_layer_decay_goes_down_from_block_to_block(part, name):
    made = tower(part, name)
    factors = rates(made)
    found = [{factors[id(p)] for p in block.parameters()} for block in made.blocks()]
    behind = max(depths(made).values()) - len(found)
    assert found == [{0.5 ** (len(found) - number + behind)} for number in range(1, len(found) + 1)]
    before = next(p for p in made.parameters())
    assert factors[id(before)] == 0.5 ** (len(found) + behind)
    if name == "open_clip":  # its last layer stands among the first of its weights
        last = [n for n, _ in made.named_parameters() if n.split(".")[-1] in ("proj", "text_projection")]
        assert all(depths(made)[n] == len(found) + 1 for n in last)


@EVERY
def test_a_lock_of_blocks_freezes_these(part, name):
    made = tower(part, name)
    lock(Two(made), LockConfig(**{part: 2}))
    moving = [{p.requires_grad for p in block.parameters()} for block in made.blocks()]
    assert moving == [{False}, {False}, *[{True}] * (len(moving) - 2)]
    assert not next(made.parameters()).requires_grad


@EVERY
def test_blocks_are_computed_again(part, name):
    plain, lean = tower(part, name), tower(part, name)
    activation_checkpointing.recompute(Two(lean))
    computed = []
    inner = [next(module for module in block.modules() if isinstance(module, nn.LayerNorm)) for block in lean.blocks()]
    for number, module in enumerate(inner):
        module.register_forward_hook(lambda *_, number=number: computed.append(number))
    given = inputs(part, name)
    (one, expected), (two, found) = gradients(plain, *given), gradients(lean, *given)
    assert torch.equal(one, two)
    assert expected.keys() == found.keys()
    assert all(torch.equal(gradient, found[key]) for key, gradient in expected.items())
    assert sorted(computed) == sorted([*range(len(inner)), *range(len(inner))])


@pytest.mark.parametrize(
    ("part", "name"), [case for case in TOWERS if case[1] in ("dinov2", "timm", "bert", "open_clip", "arrays")]
)
@pytest.mark.filterwarnings("ignore")  # of torch, while it traces
def test_blocks_are_compiled_into_one_graph_each_kind(part, name, monkeypatch):
    """Traced, and run without a compiler: the same numbers, and other rows or lengths make no new graph."""
    from torch._dynamo.testing import CompileCounter

    counter, own = CompileCounter(), nn.Module.compile
    torch._dynamo.reset()
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: own(module, backend=counter, **more))
    plain, fast = tower(part, name), tower(part, name)
    compiling.compile_blocks(Two(fast))
    frames = []
    for rows in (3, 4, 5):
        given = inputs(part, name, rows, rows + 4)
        with torch.no_grad():
            torch.testing.assert_close(fast(*given), plain(*given), atol=1e-5, rtol=1e-5)
        frames.append(counter.frame_count)
    assert counter.frame_count > 0
    assert frames[1] == frames[2]
    assert all(block._compiled_call_impl is not None for block in fast.blocks())


@EVERY
def test_fsdp_and_zero_take_the_blocks_one_by_one(part, name, monkeypatch):
    step = nn.ModuleDict({"model": Two(tower(part, name))})
    wrapped = []
    monkeypatch.setattr(fsdp, "fully_shard", lambda module, **_: wrapped.append(module))
    made = object.__new__(fsdp.Fsdp)
    made.step, made.accelerator = step, _Accelerator()
    made._wrap(lambda module: None)
    assert wrapped == [*step["model"].vision_model.blocks(), step]
    assert zero.blocks(step) == wrapped[:-1]


class _Accelerator:
    device, torch_device_mesh = torch.device("cpu"), None

    class state:
        class fsdp_plugin:
            reshard_after_forward, cpu_offload = True, None


class Pile(Tower):
    """A tower of no blocks."""

    part = "image"

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def blocks(self):
        return []


@pytest.mark.parametrize(
    ("says", "use"),
    [
        ("optim.kind: muon", lambda model: build(OptimConfig(kind="muon"), model)),
        ("optim.layer_decay", lambda model: build(OptimConfig(layer_decay=0.9), model)),
        ("activation_checkpointing", activation_checkpointing.recompute),
        ("compile", compiling.compile_blocks),
        ("lock.image: 1 blocks", lambda model: lock(model, LockConfig(image=1))),
    ],
)
def test_a_tower_without_blocks_is_named(says, use, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    with pytest.raises(UserError, match=f"{says}.*the image tower"):
        use(Two(Pile()))
    build(OptimConfig(), Two(Pile()))
    assert fsdp.blocks(Two(Pile())) == []


def test_batch_norms_are_not_computed_twice():
    made = Two(made_of("image", ("open_clip", RESNET)))
    with pytest.raises(UserError, match="the image tower .*batch norms"):
        activation_checkpointing.recompute(made)
    lock(made, LockConfig(image=True))
    activation_checkpointing.recompute(made)


def test_a_frozen_teacher_leaves_the_depths_of_the_student_alone():
    """Both are in one step; each tower is asked for itself."""
    student, teacher = tower("image", "ours"), tower("image", "dinov2").requires_grad_(False)
    step = nn.ModuleList([teacher, student])
    assert rates(step)[id(student.embeddings.class_embedding)] == 0.5**4
