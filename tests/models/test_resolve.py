"""A config is checked without a network and without opening a model; what it leaves to folders is read when asked."""

import dataclasses
import importlib
import json
import re
import socket
from pathlib import Path

import pytest
import yaml

from mmclr.config import ConfigError, check, load, to_tree
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.foreign import build, libraries
from mmclr.models.foreign.libraries import transformers
from mmclr.models.formats import find
from mmclr.models.resolve import resolve
from mmclr.models.tower import LibraryTower
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.run import RunConfig

ROOT = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.yaml") if p.parent.name != "accelerate")
TINY = {
    "embed": 24,
    "image": {"size": 42, "patch": 14, "width": 32, "layers": 1, "heads": 4, "mlp": 48},
    "text": {"context": 12, "width": 40, "layers": 1, "heads": 5, "mlp": 56, "vocab": 50, "bos": 48, "eos": 49},
    "captioner": {"layers": 1},
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VIT = {"model_type": "vit", **SIZES, "image_size": 32, "patch_size": 8}


@pytest.fixture
def nothing_is_opened(monkeypatch):
    """Make every way out, and into a model folder, an error."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"opened: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    for name in ("find", "fetch", "read_config", "read"):
        monkeypatch.setattr(find, name, refuse)


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a model of ours."""
    TwoTower(check(ModelConfig, TINY)).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def vit(tmp_path):
    """Return a folder of transformers with the config of a tower, and no weights."""
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps(VIT))
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(half))
    return tmp_path / "vit"


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_checked_with_nothing_opened(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    open_ones = ["init.source=hf-hub:x/y"]  # what some of them leave to the user
    open_ones += ["teacher=hf-hub:x/y"] * ("teacher=" in text or "teacher: ???" in text)
    sources = [f"data.train.{source}.urls=x.tar" for source in re.findall(r"^    (\w+): {urls: ", text, re.M)]
    open_ones += sources or ["data.train=x.tar"]
    assert load(RunConfig, ROOT / name, [*open_ones, "steps=1", "epochs=null", "samples=null"]).model


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize(
    "tree",
    [
        {"preset": "hf-hub:laion/CLIP-ViT-B-32"},
        {"preset": "open_clip:ViT-B-32/laion2b", "image": {"size": 336}},
        {"image": {"foreign": {"source": "transformers:facebook/dinov2-base", "pool": "cls"}}},
        {"preset": "icons", "text": {"foreign": {"source": "transformers:google-bert/bert-base-uncased"}}},
    ],
)
def test_what_stands_elsewhere_is_left_there_and_not_lost(tree):
    config = check(ModelConfig, tree)
    assert config.open
    again = check(ModelConfig, to_tree(config))  # as a stored config would come back
    assert (again, again.open, to_tree(again)) == (config, config.open, to_tree(config))
    for use in (lambda: TwoTower(config), lambda: TwoTower(with_tokenizer(config, 50, 1, 2, 3))):
        with pytest.raises(ConfigError, match=f"{config.open} names a folder that has not been read"):
            use()
    with pytest.raises(AssertionError, match="opened"):
        resolve(config)


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"preset": "transformers:x/y", "image": {"sizes": 3}}, "image.sizes: unknown key; did you mean size"),
        ({"preset": "transformers:x/y", "text": {"width": "wide"}}, "text.width: "),
        ({"preset": "x/y"}, "there is no preset 'x/y'"),
        ({"preset": ["x"]}, "preset: "),
        ({"image": {"foreign": {"source": "tensorflow:x"}}}, "'tensorflow:x' says no library; write open_clip:FOLDER"),
        ({"image": {"foreign": {"source": "transformers:"}}}, "says no library"),
        ({"image": {"foreign": {"source": "transformers:x", "library": "transfomers"}}}, "did you mean transformers"),
        ({"image": {"foreign": {"source": "transformers:x", "pol": 1}}}, "image.foreign.pol: unknown key; .* pool"),
        ({"text": {"width": 30, "heads": 4}}, "text.width 30 is not a multiple of text.heads 4"),
    ],
)
def test_faults_are_found_with_nothing_opened(tree, says):
    with pytest.raises(ConfigError, match=says):
        check(ModelConfig, tree)


def test_a_folder_lies_beneath_what_is_written(folder):
    """Also where the values fit the folder's alone: 70 is no multiple of the patch of 32 that is the default."""
    config = check(ModelConfig, {"preset": str(folder), "image": {"size": 70}, "text": {"context": 5}})
    assert config.open == "model.preset"
    found = resolve(config)
    assert (found.open, found.preset, found.image.size, found.image.patch) == (None, None, 70, 14)
    assert (found.text.context, found.text.vocab, found.captioner.layers) == (5, 50, 1)
    assert resolve(found) is found
    wrong = check(ModelConfig, {"preset": str(folder), "image": {"size": 71}})
    with pytest.raises(ConfigError, match="model: image.size 71 is not a multiple of image.patch 14"):
        resolve(wrong)
    with pytest.raises(ConfigError, match="model.preset is to be read before"):
        resolve(dataclasses.replace(config, embed=3))


def test_a_run_is_stored_as_it_was_resolved(vit):
    """So that going on needs the folder no more."""
    image = {"foreign": {"source": f"transformers:{vit}", "pool": "cls"}, "size": 48}
    run = load(RunConfig, "debug.yaml", ["data.train=x", f"model={json.dumps({'preset': 'icons', 'image': image})}"])
    assert run.model.open == "model.image.foreign"
    found = run.resolved()
    assert (found.model.image.size, found.model.image.patch, found.model.image.layers) == (48, 8, 2)
    stored = yaml.safe_load(yaml.safe_dump(to_tree(found)))
    (vit / "config.json").unlink()
    again = load(RunConfig, stored)
    assert again == found
    assert again.resolved() is again
    with pytest.raises(UserError, match="vit: no model there"):
        run.resolved()


def test_a_missing_name_is_one_sentence():
    config = check(ModelConfig, {"image": {"foreign": {"source": "transformers:nowhere/at-all", "pool": "cls"}}})
    with pytest.raises(UserError, match="nowhere/at-all: neither a folder here nor in the Hub's cache"):
        resolve(config)


FOUR = """from mmclr.models.foreign.libraries.transformers import Image, Text, describe


def fill_tower(part, tower, folder):
    tower.filled = (part, folder)
"""


@pytest.mark.parametrize("how", ["a file beside ours", "a plugin"])
def test_a_library_of_towers_is_one_module(how, vit, tmp_path, monkeypatch):
    """Whatever has the four functions is a library: described, built and filled as ours are."""
    name = f"mine_{len(how)}"
    (tmp_path / f"{name}.py").write_text(FOUR)
    if how == "a plugin":
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(libraries, "ADDED", {})
        libraries.register(name, importlib.import_module(name))
    else:
        monkeypatch.setattr(libraries, "__path__", [*libraries.__path__, str(tmp_path)])
    foreign = {"source": f"{name}:{vit}", "pool": "cls"}
    config = resolve(check(ModelConfig, {"preset": "icons", "image": {"foreign": foreign}}))
    assert config.image.foreign.library == name
    tower = build.image_tower(config.image)
    assert isinstance(tower, LibraryTower)
    assert len(tower.blocks()) == 2
    build.fill_tower("image", tower, config.image.foreign)
    assert tower.filled == ("image", vit)


def test_a_library_has_a_name_of_its_own():
    with pytest.raises(UserError, match="the library of towers 'transformers' is one of mmclr's own"):
        libraries.register("transformers", transformers)
