"""Where weights come from and which of them move: init, locks, depths, groups, in runs too."""

import json

import pytest
import torch
import yaml

from mmclr.config import ConfigError, check, load
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.freeze import LockConfig, lock
from mmclr.models.init import InitConfig, resize_context, resize_grid, start
from mmclr.models.layer_depth import depths
from mmclr.models.resolve import resolve
from mmclr.models.two_tower import TwoTower
from mmclr.train.optimizer import OptimConfig, build

TREE = {
    "embed": 24,
    "image": {"size": 24, "patch": 8, "width": 32, "layers": 3, "heads": 4, "mlp": 48},
    "text": {"context": 12, "width": 40, "layers": 2, "heads": 5, "mlp": 56, "vocab": 50, "bos": 48, "eos": 49},
}


def model(seed=0, image=None, text=None, bias=False, **more):
    torch.manual_seed(seed)
    tree = {**TREE, "image": {**TREE["image"], **(image or {})}, "text": {**TREE["text"], **(text or {})}, **more}
    return TwoTower(check(ModelConfig, tree), bias)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    trained = model(7, bias=True)
    trained.logit_scale.data.fill_(3.0)
    trained.save(folder)
    return folder


def same(a, b, prefix):
    own = a.state_dict()
    return [torch.equal(own[name], value) for name, value in b.state_dict().items() if name.startswith(prefix)]


def test_a_whole_model(source):
    new = model(bias=True)
    start(new, InitConfig(source=str(source)))
    assert all(same(new, TwoTower.load(source), ""))
    without = model()
    start(without, InitConfig(source=str(source)))  # a bias that no objective asks for is left
    assert all(same(without, TwoTower.load(source), ("vision", "text", "logit_scale")))


@pytest.mark.parametrize("part", ["image", "text"])
def test_one_tower(part, source):
    new, untouched = model(), model()
    start(new, InitConfig(source=str(source), parts=part))
    mine = {"image": ("vision_model.", "visual_"), "text": ("text_model.", "text_projection")}
    other = {"image": "text", "text": "image"}[part]
    assert all(same(new, TwoTower.load(source), mine[part]))
    assert all(same(new, untouched, (*mine[other], "logit_scale")))


def test_projections_may_start_anew(source):
    new = model(embed=16)
    with pytest.raises(UserError, match=r"init: .*text_projection.weight is \[24, 40\] there and \[16, 40\] here"):
        start(new, InitConfig(source=str(source), parts="text"))
    start(new, InitConfig(source=str(source), projections=False))
    assert all(same(new, TwoTower.load(source), ("vision_model.", "text_model.", "logit_scale")))


def test_other_sizes_interpolate_positions_as_open_clip_does(source):
    from types import SimpleNamespace

    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    old = TwoTower.load(source).state_dict()
    new = model(image={"size": 40}, text={"context": 20})
    start(new, InitConfig(source=str(source)))
    theirs = {
        "visual.positional_embedding": old["vision_model.embeddings.position_embedding.weight"],
        "positional_embedding": old["text_model.embeddings.position_embedding.weight"],
    }
    shape = SimpleNamespace(visual=SimpleNamespace(grid_size=(5, 5)), positional_embedding=torch.empty(20, 40))
    resize_pos_embed(theirs, shape)
    resize_text_pos_embed(theirs, shape)
    own = new.state_dict()
    close = torch.testing.assert_close
    close(own["vision_model.embeddings.position_embedding.weight"], theirs["visual.positional_embedding"])
    close(own["text_model.embeddings.position_embedding.weight"], theirs["positional_embedding"])
    shorter = model(text={"context": 8})
    start(shorter, InitConfig(source=str(source)))
    tokens, lengths = torch.tensor([[48, 3, 4, 49]]), torch.tensor([4])
    close(shorter.encode_text(tokens, lengths), TwoTower.load(source).encode_text(tokens, lengths))


def test_resizing_keeps_what_is_there():
    positions = torch.randn(10, 6)
    assert torch.equal(resize_context(positions, 10), positions)
    constant = torch.ones(10, 6)
    torch.testing.assert_close(resize_grid(constant, 25), torch.ones(26, 6))


def test_another_activation_or_width_is_refused_with_what_to_set(source):
    quick = {"activation": "quick_gelu"}
    with pytest.raises(UserError, match="trained with gelu, it computes nonsense.*set model.image.activation=gelu"):
        start(model(image=quick, text=quick), InitConfig(source=str(source)))
    with pytest.raises(UserError, match="set model.text.layers=2, or model.preset="):
        start(model(text={"layers": 1}), InitConfig(source=str(source)))
    start(model(text={"layers": 1}), InitConfig(source=str(source), parts="image"))
    with pytest.raises(UserError, match="no such folder|neither a folder here"):
        start(model(), InitConfig(source="nowhere/at-all"))
    config = resolve(check(ModelConfig, {"preset": str(source), "text": {"context": 5}}))
    assert (config.image.width, config.text.vocab, config.text.context, config.preset) == (32, 50, 5, None)


def test_depths():
    ours = depths(model().vision_model)
    by_depth = {d: {n.split(".")[0] for n, k in ours.items() if k == d} for d in set(ours.values())}
    assert by_depth == {
        0: {"embeddings", "pre_layrnorm"},
        1: {"encoder"},
        2: {"encoder"},
        3: {"encoder"},
        4: {"post_layernorm"},
    }


@pytest.mark.parametrize("how", [True, "all", 2])
def test_locked_parts_do_not_move(how):
    new = model()
    lock(new, LockConfig(image=how))
    moving = {name for name, p in new.named_parameters() if p.requires_grad and name.startswith("vis")}
    by_depth = depths(new.vision_model)
    last = {f"vision_model.{name}" for name, d in by_depth.items() if d > 2}
    assert moving == {True: {"visual_projection.weight"}, "all": set(), 2: last | {"visual_projection.weight"}}[how]
    new.train()
    assert not new.vision_model.embeddings.training
    assert new.text_model.training
    assert new.vision_model.encoder.layers[2].training == (how == 2)


def test_bad_locks():
    with pytest.raises(ConfigError, match="lock.text: 3 blocks, and the text tower has 2"):
        lock(model(), LockConfig(text=3))
    with pytest.raises(ConfigError, match="image"):
        check(LockConfig, {"image": "some"})


def rates(c, net):
    """Return {name: (factor, weight decay)}."""
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        names[id(p)]: (group["factor"], group["weight_decay"])
        for group in build(c, net).param_groups
        for p in group["params"]
    }


def test_layer_decay_is_the_formula():
    found = rates(OptimConfig(layer_decay=0.5), model())
    blocks = [found[f"vision_model.encoder.layers.{i}.mlp.fc1.weight"] for i in range(3)]
    assert blocks == [(0.5**3, 0.2), (0.5**2, 0.2), (0.5, 0.2)]
    assert found["vision_model.embeddings.class_embedding"] == (0.5**4, 0.0)
    assert found["text_model.embeddings.token_embedding.weight"] == (0.5**3, 0.2)
    assert found["vision_model.post_layernorm.bias"] == (1.0, 0.0)
    assert found["visual_projection.weight"] == (1.0, 0.2)
    assert found["logit_scale"] == (1.0, 0.0)


def test_groups_by_pattern():
    groups = {"vision_model": {"lr": 0.1}, "vision_model*fc1.weight": {"lr": 0.5, "weight_decay": 0.0}}
    c = check(OptimConfig, {"groups": groups})
    found = rates(c, model())
    assert found["vision_model.encoder.layers.0.mlp.fc1.weight"] == (0.5, 0.0)
    assert found["vision_model.encoder.layers.0.mlp.fc2.weight"] == (0.1, 0.2)
    assert found["text_model.encoder.layers.0.mlp.fc1.weight"] == (1.0, 0.2)
    with pytest.raises(ConfigError, match=r"optim.groups.visoin: no trained weight has such a name \(one is "):
        build(check(OptimConfig, {"groups": {"visoin": {}}}), model())


TINY = ["data.workers=0", "data.batch=12", "steps=3", "precision=float32", "tokenizer={tokenizer}"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer of the shards' words."""
    from mmclr.data.samples.text import Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(["a red square at the left", "green blue white right top bottom"] * 5, 540, 16).save(folder)
    return folder


def run(shards, out, tokenizer, *settings):
    from mmclr.train.run import RunConfig
    from mmclr.train.trainer import train

    tiny = [f"data.train={shards}", f"out={out}", *(text.format(tokenizer=tokenizer) for text in TINY)]
    return train(load(RunConfig, "debug.yaml", [*tiny, *settings]), quiet=True) / "model"


def test_a_run_from_a_run_with_a_locked_tower(shards, tmp_path, tokenizer):
    first = run(shards, tmp_path / "a", tokenizer)
    settings = [f"init.source={tmp_path / 'a'}", "lock.image=true", "lock.text=1", "optim.lr=0.1"]
    second = run(shards, tmp_path / "b", tokenizer, *settings)
    a, b = TwoTower.load(first), TwoTower.load(second)
    assert all(same(b, a, ("vision_model.", "text_model.embeddings.", "text_model.encoder.layers.0.")))
    assert not any(same(b, a, ("visual_projection", "text_projection", "text_model.final_layer_norm")))


def test_init_wants_the_tokenizer_that_the_tower_knows(shards, tmp_path, tokenizer):
    from mmclr.data.samples.text import Tokenizer

    run(shards, tmp_path / "a", tokenizer)
    Tokenizer.train(["other words"] * 9, 540, 16).save(tmp_path / "other")
    with pytest.raises(UserError, match="another vocabulary.*set tokenizer="):
        run(shards, tmp_path / "b", tmp_path / "other", f"init.source={tmp_path / 'a'}")
    run(shards, tmp_path / "c", tmp_path / "other", f"init={{source: {tmp_path / 'a'}, parts: image}}")


def test_a_run_with_foreign_towers_and_its_continuation(shards, tmp_path, tokenizer):
    import transformers as t

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    t.ViTModel(t.ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vit")
    t.BertModel(t.BertConfig(**size, vocab_size=540)).save_pretrained(tmp_path / "bert")
    tokenizer_of_bert = tmp_path / "bert"
    for path in tokenizer.iterdir():
        (tokenizer_of_bert / path.name).write_bytes(path.read_bytes())
    image = {"size": 32, "mean": [0.5] * 3, "foreign": {"source": f"transformers:{tmp_path / 'vit'}", "pool": "cls"}}
    text = {"context": 16, "foreign": {"source": f"transformers:{tmp_path / 'bert'}", "pool": "mean"}}
    settings = [f"model={json.dumps({'image': image, 'text': text})}", "lock.image=1", "save.every_steps=2"]
    folder = run(shards, tmp_path / "a", tokenizer_of_bert, *settings)
    trained, vit = TwoTower.load(folder), t.ViTModel.from_pretrained(tmp_path / "vit")
    own = trained.vision_model.model.state_dict()
    still = {name: torch.equal(own[name], value) for name, value in vit.state_dict().items() if name in own}
    depth = depths(trained.vision_model)
    assert still == {name: depth[f"model.{name}"] <= 1 for name in still}
    (tmp_path / "vit").rename(tmp_path / "gone")  # going on needs the checkpoint alone
    resolved = yaml.safe_load((folder.parent / "config.yaml").read_text())
    settings[0] = f"model={json.dumps(resolved['model'])}"
    again = run(shards, tmp_path / "a", tokenizer_of_bert, *settings, "steps=4")
    assert again.parent.name == "step-00000004"
