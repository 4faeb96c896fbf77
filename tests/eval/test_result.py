"""A result's file: CLIP_benchmark's keys, no NaN, and the samples come back as they were."""

import json

import numpy as np
import pytest
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from rich.console import Console

from mmclr.errors import UserError


@pytest.fixture
def result():
    recall = Measurement(np.array([1.0, 0, 0.25, 1]), clusters=np.array([0, 0, 1, 1]), unit="images")
    balanced = Measurement(np.array([1.0, 0, 1]), strata=np.array([0, 0, 1]), unit="images")
    return Result.of(
        {"image_retrieval_recall@1": recall, "mean_per_class_recall": balanced, "acc5": None},
        dataset="wds/toy",
        model="runs/a",
        task="zeroshot_retrieval",
        ties={"captions": 1},
        skipped={"undecodable image": 2},
        notes=["acc5 is null: 3 classes"],
    )


def test_the_file_has_clip_benchmarks_keys_and_only_numbers_in_metrics(result, tmp_path):
    tree = json.loads(result.save(tmp_path / "new" / "out.json").read_text())
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(tree)
    assert tree["metrics"] == {"image_retrieval_recall@1": 0.5625, "mean_per_class_recall": 0.75, "acc5": None}
    assert tree["n"] == {"image_retrieval_recall@1": 2, "mean_per_class_recall": 3}
    low, high = tree["ci95"]["mean_per_class_recall"]
    assert low < 0.75 < high
    assert "torch" in tree["versions"]


def test_save_and_load_keep_every_sample(result, tmp_path):
    back = Result.load(result.save(tmp_path / "out.json"))
    assert back == result
    for name, measurement in result.measurements.items():
        again = back.measurements[name]
        assert (again.values == measurement.values).all()
        assert again.interval() == measurement.interval()
        assert again.method == measurement.method


def test_a_nan_is_refused_and_not_written(tmp_path):
    broken = Result("d", "m", "t", {"acc1": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        broken.save(tmp_path / "x.json")


def test_a_file_of_clip_benchmark_is_read(tmp_path):
    path = tmp_path / "peer.json"
    path.write_text('{"dataset":"d","model":"m","pretrained":"p","task":"t","metrics":{"acc1":0.5},"language":"en"}')
    assert Result.load(path).metrics == {"acc1": 0.5}
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="not a result"):
        Result.load(path)


def test_what_is_printed_says_ties_skipped_and_notes(result):
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        result.show(console)
        text = console.export_text()
    for part in ("0.5625", "ties: 1 captions", "skipped: 2 samples (undecodable image)", "acc5 is null"):
        assert part in text
