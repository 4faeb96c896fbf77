"""`mmclr report` puts a run's curves and evaluations with their images on one page."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from mmclr.errors import UserError
from mmclr.report import command


def png():
    """Return a small PNG in base64."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 200)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture
def result(tmp_path):
    def write(name, metric="acc1", examples=None):
        path = tmp_path / f"{name}.json"
        tree = {
            "dataset": name,
            "task": "t",
            "metrics": {metric: 0.5},
            "ci95": {metric: [0.25, 0.75]},
            "notes": ["a note"],
        }
        path.write_text(json.dumps(tree))
        if examples:
            path.with_suffix(".examples.json").write_text(json.dumps(examples))
        return path

    return write


@pytest.mark.parametrize("image", ["image", "picture"])  # as version 0.1 called it
def test_run_results_and_images_on_one_page(result, tmp_path, capsys, image):
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_text("\n".join(json.dumps({"step": s, "loss": 5 - s / 10}) for s in range(20)))
    found = [{image: png(), "right": True, "name": "a cloud", "score": 0.5}]
    written = {image: png(), "caption": "a <big> cloud", "truth": "a small cloud", "right": False}
    result("one", examples={"finds": [{"text": "the cloud", "found": found}], "captions": [written]})
    result(
        "two",
        "acc5",
        {
            "guesses": [{image: png(), "truth": "sun", "guesses": [["moon", 0.7]]}],
            "confusions": {"pairs": [["sun", "star", 3, 0.25]], "classes": ["sun", "star"], "matrix": [[9, 3], [0, 4]]},
            "scores": {"right": [0.5, 0.6], "wrong": [0.0, 0.1]},
            "plane": {"image": [[0, 0, "x"]], "text": [[1, 1, "y"]]},
        },
    )
    command.main([str(run), *map(str, sorted(tmp_path.glob("*.json")))])
    page = (run / "report.html").read_text()
    for part in (
        "the cloud",
        "found at 1",
        "a &lt;big&gt; cloud",
        "a small cloud",
        "sun",
        "moon",
        "70%",
        "t · one",
        "a note",
        "<h2>Training</h2>",
        "0.2500",
        "sun → star: 3 of 12",
        "map of the embeddings",
        "What it confuses",
    ):
        assert part in page
    assert str(run / "report.html") in capsys.readouterr().out


def test_several_runs_are_told_apart_and_a_scale_is_shown_with_its_clamp(tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for run in runs:
        (run / "checkpoints/step-00000001").mkdir(parents=True)
        (run / "checkpoints/step-00000001/config.yaml").write_text("model: {max_scale: 20.0}")
        (run / "checkpoints/step-00000001/position.json").write_text('{"step": 1}')
        (run / "log.jsonl").write_text("\n".join(json.dumps({"step": s, "scale": 17.0 + s}) for s in range(3)))
    page = command.build(runs).html()
    assert "Training · one" in page
    assert "Training · two" in page
    assert page.count(">clamp</text>") == 2


def test_many_numbers_are_a_table_and_a_sweep_is_drawn(result):
    curve = {"temperatures": {"hardest_share": [[0.01, 1.0], [0.1, 0.5], [1.0, 0.1]]}}
    path = result("one", examples=curve)
    tree = json.loads(path.read_text())
    tree["metrics"] |= {f"m{i}": float(i) for i in range(20)}
    path.write_text(json.dumps(tree))
    page = command.build([path]).html()
    assert "<table" in page
    assert 'class="number"' not in page
    at = re.findall(r'class="line c0" d="M([\d.]+),[\d.]+L([\d.]+),[\d.]+L([\d.]+),', page)[0]
    assert float(at[1]) - float(at[0]) == pytest.approx(float(at[2]) - float(at[1]), abs=0.3)  # even in powers


def test_a_comparison_is_drawn(tmp_path):
    row = {"metric": "acc1", "first": 0.1, "second": 0.3, "difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.001}
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"compared_with": "base", "differences": [row, {**row, "low": None, "high": None}]}))
    page = command.build([path]).html()
    for part in ("Differences to base", 'class="better"', "0.3000"):
        assert part in page


def test_without_examples_there_are_no_pictures(result):
    assert "<img" not in command.build([result("one")]).html()


def test_what_is_no_run_and_no_result_is_said(result, tmp_path):
    for path, match in ((tmp_path, "no log.jsonl"), (tmp_path / "x.json", "no such run or result")):
        with pytest.raises(UserError, match=match):
            command.build([path])
    path = result("one")
    path.write_text("{}")
    with pytest.raises(UserError, match="not a result of mmclr eval"):
        command.build([path])
