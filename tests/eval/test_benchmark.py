"""CLIP_benchmark's command line, with `mmclr eval` in place of `clip_benchmark eval`."""

import json

import pytest
from mmclr.eval import clip_benchmark
from mmclr.eval.embed.embedder import DTYPES
from mmclr.eval.sets import layout
from mmclr.eval.sets.shards import ordinary

from mmclr.errors import UserError


@pytest.fixture
def sets(shards, tmp_path):
    """Two sets in CLIP_benchmark's layout below one root."""
    root = tmp_path / "sets"
    classes = ordinary(shards, caption="", label="json:colour", templates=["a {c}"])
    layout.write(classes, root / "wds_colours")
    layout.write(classes, root / "wds_colours", split="train")
    layout.write(ordinary(shards), root / "wds_pairs")
    return root


def run(sets, model_folder, tmp_path, *more):
    root = str(sets / "wds_{dataset_cleaned}")
    out = str(tmp_path / "{dataset}-{language}-{task}.json")
    clip_benchmark.main(
        [
            "--dataset_root",
            root,
            "--model",
            f"local-dir:{model_folder}",
            "--pretrained",
            "",
            "--output",
            out,
            "--num_workers",
            "2",
            "--no_amp",
            "--cache",
            "none",
            *more,
        ]
    )
    return {
        path.name: json.loads(path.read_text()) for path in sorted(tmp_path.glob("*-*.json")) if "." not in path.stem
    }


def test_the_task_is_told_by_the_set(sets, model_folder, tmp_path):
    found = run(sets, model_folder, tmp_path, "--dataset", "wds/colours", "pairs", "--recall_k", "1", "5")
    assert list(found) == ["colours-en-zeroshot_classification.json", "pairs-en-zeroshot_retrieval.json"]
    assert found["colours-en-zeroshot_classification.json"]["dataset"] == "wds/colours"
    assert list(found["pairs-en-zeroshot_retrieval.json"]["metrics"])[-1] == "text_retrieval_recall@5"


def test_class_names_of_other_languages(sets, model_folder, tmp_path):
    names, templates = tmp_path / "de.json", tmp_path / "cupl.json"
    german = ["blau", "gruen", "orange", "lila", "rot", "gelb"]
    names.write_text(json.dumps({"colours": german}))
    templates.write_text(json.dumps({"colours": {name: [f"ein Ding in {name}"] for name in german}}))
    more = ["--dataset", "wds/colours", "--language", "de", "--custom_classname_file", str(names)]
    found = run(sets, model_folder, tmp_path, *more, "--custom_template_file", str(templates))
    result = found["colours-de-zeroshot_classification.json"]
    assert result["language"] == "de"
    assert result["sizes"]["templates"] == 6
    names.write_text(json.dumps({"colours": german[:4]}))
    with pytest.raises(UserError, match="it has 6 classes, but 4 class names"):
        run(sets, model_folder, tmp_path, *more)


def test_linear_probe_and_skip_existing(sets, model_folder, tmp_path, capsys):
    more = ["--dataset", "wds/colours", "--task", "linear_probe", "--fewshot_k", "3"]
    found = run(sets, model_folder, tmp_path, *more)
    assert "lp_acc1" in found["colours-en-linear_probe.json"]["metrics"]
    capsys.readouterr()
    run(sets, model_folder, tmp_path, *more, "--skip_existing")
    assert capsys.readouterr().out == ""


def test_names_of_models():
    assert clip_benchmark.source_of("local-dir:/a/b", "x") == "/a/b"
    assert clip_benchmark.source_of("ViT-B-32", "laion2b_s34b_b79k") == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert clip_benchmark.source_of("hf-hub:org/name", "") == "hf-hub:org/name"


def test_precisions_are_those_of_the_embedder():
    """They are written out, so that the help needs no torch."""
    assert set(clip_benchmark.PRECISIONS) == set(DTYPES)
