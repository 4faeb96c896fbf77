"""Lists of tasks: our own and DataComp's, resumed, with failures reported; corruptions; options reach their suites."""

import io
import json

import numpy as np
import pytest
import yaml
from mmclr.eval.commands import all as tasks
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets import layout
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suite import Suite
from mmclr.eval.suites.classification import robustness
from PIL import Image

from mmclr.errors import UserError


def lines(out):
    return [json.loads(line) for line in (out / "eval_results.jsonl").read_text().splitlines()]


@pytest.fixture
def listed(shards, tmp_path):
    path = tmp_path / "tasks.yaml"
    tree = {
        "colours": {"suite": "zero_shot", "data": shards, "label": "json:colour", "template": ["a {c}", "{c} thing"]},
        "pairs": {"suite": "retrieval", "data": shards, "recall_k": [1, 3], "relation": "caption"},
        "near": {"suite": "knn", "data": shards, "train": shards, "label": "json:colour", "k": [2]},
        "shape": {"suite": "geometry", "data": shards},
    }
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_a_list_writes_results_and_lines_and_goes_on_where_it_was(listed, model_folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = [str(model_folder), "--tasks", str(listed), "--out", str(out), "--cache", "none"]
    tasks.main(argv)
    found = {line["key"]: line for line in lines(out)}
    assert list(found) == ["colours", "pairs", "near", "shape"]
    assert found["colours"]["metrics"]["main_metric"] == found["colours"]["metrics"]["acc1"]
    pairs = found["pairs"]["metrics"]
    assert pairs["main_metric"] == (pairs["image_retrieval_recall@1"] + pairs["text_retrieval_recall@1"]) / 2
    assert "image_retrieval_recall@3" in pairs
    assert found["shape"]["metrics"]["main_metric"] is None
    assert json.loads((out / "near.json").read_text())["task"] == "knn"
    assert "4 tasks" not in capsys.readouterr().out  # the mean is over those that have a main metric
    monkeypatch.setattr(Suite, "measure", None)
    tasks.main(argv)  # nothing is left to do
    assert len(lines(out)) == 4


def test_a_task_that_fails_is_reported_and_leaves_no_line(listed, model_folder, tmp_path):
    tree = yaml.safe_load(listed.read_text())
    tree = {"broken": {**tree["colours"], "label": "json:color"}, "shape": tree["shape"]}
    listed.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(UserError, match="broken: .*no sample has json:color; write json:colour"):
        tasks.main([str(model_folder), "--tasks", str(listed), "--out", str(tmp_path / "out")])
    assert [line["key"] for line in lines(tmp_path / "out")] == ["shape"]


def test_datacomps_list(shards, model_folder, tmp_path):
    data = ordinary(shards, caption="", label="json:colour")
    layout.write(data, tmp_path / "sets" / "wds_vtab-colours_test")
    layout.write(ordinary(shards), tmp_path / "sets" / "wds_retrieval-pairs_test")
    tree = {
        "vtab/colours": {"name": "Colours", "size": 60, "num_classes": 6, "main_metric": "mean_per_class_recall"},
        "retrieval/pairs": {"name": "Pairs", "main_metric": "mean_recall@1"},
        "wilds/camelyon17": {"name": "Camelyon17"},
    }
    path = tmp_path / "tasklist.yml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    found, left_out = tasks.read(path, tmp_path / "sets")
    assert left_out == ["wilds/camelyon17"]
    tasks.run(Embedder.load(model_folder, device="cpu"), found, tmp_path / "out")
    one, two = lines(tmp_path / "out")
    assert one["dataset"] == "Colours"
    assert one["metrics"]["main_metric"] == one["metrics"]["mean_per_class_recall"]
    assert two["metrics"]["main_metric"] == two["metrics"]["mean_recall@1"]


def test_broken_lists_get_a_sentence(tmp_path):
    path = tmp_path / "tasks.yaml"
    for text, match in [
        ("a: {suite: zeroshot, data: x}", "did you mean zero_shot"),
        ("- a", "a mapping from names"),
        ("a: [", "not YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=match):
            tasks.read(path, None)
    with pytest.raises(UserError, match="no such list"):
        tasks.read(tmp_path / "none.yaml", None)


@pytest.mark.parametrize("name", robustness.CORRUPTIONS)
def test_corruptions_grow_and_depend_on_the_key_alone(shards, name):
    data = ordinary(shards)

    def distance(level):
        spoilt = robustness.corrupted(data, name, level)
        pairs = [(Image.open(io.BytesIO(s.read(3))).convert("RGB") for s in (data, spoilt))]
        return np.mean([np.abs(np.subtract(*(np.asarray(i, float) for i in pair))).mean() for pair in pairs])

    assert 0 < distance(0) < distance(4)
    again = robustness.corrupted(data.subset([3], "others"), name, 2).read(0)
    assert again == robustness.corrupted(data, name, 2).read(3)


def test_robustness_is_the_mean_over_strengths(shards, model_folder, tmp_path):
    embedder = Embedder.load(model_folder, device="cpu", cache=tmp_path / "cache")
    data = ordinary(shards, caption="", label="json:colour").subset(range(12), "for speed")
    result = robustness.run(embedder, data)
    parts = [result.metrics[f"{name}_acc1"] for name in robustness.CORRUPTIONS]
    assert result.metrics["corrupted_acc1"] == pytest.approx(np.mean(parts))
    assert result.metrics["kept"] == pytest.approx(result.metrics["corrupted_acc1"] / result.metrics["acc1"])
    assert result.hashes["images"]
    assert sum(1 for path in (tmp_path / "cache").glob("*/*") if "text" not in path.parent.name) == 1  # the clean ones
