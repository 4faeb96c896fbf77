"""Every shipped config loads, builds and takes a step; base.yaml says every key with its default."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmclr.config import ConfigError, load, to_tree
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.losses.weighted_sum import build_terms
from mmclr.train.run import RunConfig
from tests.data.made import pair, write_tar

ROOT = Path(__file__).parent.parent.parent / "configs"
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.yaml") if "accelerate" not in p.parts)
TINY = ["data.batch=8", "data.workers=0", "data.cache=none", "steps=1", "epochs=null", "samples=null", "tokenizer=clip",
        "average.decay=0", "precision=float32", "model.embed=16", "data.caption=txt", "data.split=none",
        "model.image={size: 32, patch: 16, width: 16, layers: 1, heads: 2, mlp: 16}",
        "model.text={width: 16, layers: 1, heads: 2, mlp: 16}", "micro_batch=4",
        # weights, and the architectures of towers, that are not here
        "init.source=''", "model.image.foreign=null", "model.text.foreign=null", "lock.text=false"]  # fmt: skip
RECIPES = sorted(
    path.name for path in ROOT.glob("*.yaml") if path.stem.split("_")[0] not in ("base", "debug", "demo", "small")
)


def test_base_says_every_key_with_its_default():
    base = load(RunConfig, ROOT / "base.yaml", ["data.train=x.tar"])
    plain = RunConfig(data=type(base.data)(train="x.tar"), model=base.model, epochs=30)
    assert to_tree(base) == to_tree(plain)
    written = yaml.safe_load((ROOT / "base.yaml").read_text())
    unsaid = {"steps", "samples", "evaluate"}  # said in a comment; exactly one of three
    assert {f.name for f in dataclasses.fields(RunConfig)} - unsaid == written.keys()
    for room in ("data", "optim", "average", "save", "guard"):
        assert {f.name for f in dataclasses.fields(getattr(base, room))} == written[room].keys()


@pytest.fixture(scope="module")
def teacher(shards, tmp_path_factory):
    """Return a run as wide as the others."""
    from mmclr.train.trainer import train

    folder = tmp_path_factory.mktemp("teacher")
    train(load(RunConfig, ROOT / "base.yaml", [f"data.train={shards}", f"out={folder}", *TINY]), quiet=True)
    return folder


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Return a shard whose samples have a target and tags, and numbers of classes, domains and groups beside it."""
    folder = tmp_path_factory.mktemp("numbered")
    told = json.dumps({"target": 1.5, "tags": ["wood", "green"]}).encode()
    members = [(f"{i:02d}.{end}", data) for i in range(16) for end, data in {**pair(i), "json": told}.items()]
    write_tar(folder / "0.tar", members)
    for index in open_indices([str(folder / "0.tar")]):
        for name, classes in (("label", 4), ("domain", 2), ("group", 4)):
            with columns.write(index, name, columns.Kind("int32")) as column:
                column.put(np.arange(16), np.arange(16, dtype=np.int32) % classes)
    return folder / "0.tar"


NUMBERED = {"column:label", "column:domain", "column:group", "json:target", "json:tags"}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_takes_a_step(name, shards, tmp_path, request):
    from mmclr.train.trainer import train

    tree = yaml.safe_load((ROOT / name).read_text())
    data = tree.get("data", {})
    asked = NUMBERED & {data.get("label"), *data.get("fields", {}).values()}
    shards = request.getfixturevalue("numbered") if asked else shards
    sources = data.get("train", "")
    train_on = (
        json.dumps({source: {"urls": str(shards)} for source in sources}) if isinstance(sources, dict) else shards
    )
    more = ["data.label=txt"] if data.get("label") and not asked else []  # a field that no sample has is refused
    more += [f"teacher={request.getfixturevalue('teacher')}"] if tree.get("teacher") else []
    run = load(RunConfig, ROOT / name, [f"data.train={train_on}", f"out={tmp_path}", *TINY, *more])
    assert train(run, quiet=True).name == "step-00000001"


def test_an_objective_that_needs_a_teacher_says_so():
    for key in ("rcal", "coconut"):
        with pytest.raises(
            ConfigError, match=f"objectives.{key}: {key} compares .* this run has none; set teacher=RUN"
        ):
            build_terms({key: {}}, teacher=False)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_where_they_come_from(name):
    """Data, batch, hours and how they were estimated, and the paper of the hyper-parameters."""
    text = (ROOT / name).read_text()
    said = " ".join(line.lstrip("# ") for line in text.split("base:")[0].splitlines())
    for word in ("arXiv ", "Data: ", "Hours: ", "estimated"):
        assert word in said, word
    assert yaml.safe_load(text).get("data", {}).get("batch") or "as clip_b32" in said


def test_found_by_name_and_nearest_name_told():
    for name in ("debug.yaml", "debug"):
        assert load(RunConfig, name, ["data.train=x"]).name == "debug"
    with pytest.raises(ConfigError, match=r"did you mean debug\?"):
        load(RunConfig, "debgu.yaml")


def test_all_faults_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("base: debug.yaml\noptim: {lr: fast, beta: 1}\nmodle: {}\n")
    with pytest.raises(ConfigError) as error:
        load(RunConfig, tmp_path / "c.yaml", ["data.train=x"])
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert any(line.startswith("optim.lr: input should be a valid number") for line in lines)
    assert any("optim.beta: unknown key; did you mean betas?" in line for line in lines)
    assert any("modle: unknown key; did you mean model?" in line for line in lines)


def test_merge_rules(tmp_path):
    (tmp_path / "below.yaml").write_text("base: debug.yaml\nobjectives: {clip: {}, siglip: {weight: 2}}\n")
    (tmp_path / "above.yaml").write_text("base: below.yaml\nobjectives: {clip: null}\noptim: {lr: 3e-4}\n")
    run = load(RunConfig, tmp_path / "above.yaml", ["data.train=x", "optim.betas=[0.8, 0.9]"])
    assert run.objectives == {"clip": None, "siglip": {"weight": 2}}
    assert run.optim.lr == 3e-4
    assert run.optim.betas == (0.8, 0.9)
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    with pytest.raises(ConfigError, match="leads back to this file"):
        load(RunConfig, tmp_path / "loop.yaml")
    for text, message in (("- 1", "is a mapping"), ("a: [1", "not YAML")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load(RunConfig, tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="is not an override"):
        load(RunConfig, "debug.yaml", ["steps"])
