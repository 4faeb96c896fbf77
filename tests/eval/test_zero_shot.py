"""Zero-shot classification: the same numbers as transformers' model and scikit-learn; broken sets get a sentence."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics import classifier
from mmclr.eval.sets import layout as layouts
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import zero_shot
from sklearn import metrics

from mmclr.errors import UserError
from tests import bounds

TEMPLATES = ["an image of a {c}", "{c}", "the {c} one"]


@pytest.fixture(scope="module")
def embedder(model_folder):
    return Embedder.load(model_folder, device="cpu", batch=16)


@pytest.fixture
def classification(toy, layout):
    members = {f"s{i:07d}": {"png": toy.picture(i), "cls": str(i % 6).encode()} for i in range(40)}
    root = layout(members)
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    return root


def test_equals_transformers_and_scikit_learn(toy, embedder, classification, model_folder):
    result = zero_shot.run(embedder, layouts.read(classification))
    numbers = [i for part in (0, 1) for i in range(part, 40, 2)]  # the order of the shards
    texts = [t.replace("{c}", c) for c in toy.COLOURS for t in TEMPLATES]
    image, text = toy.peer_features(model_folder, [toy.picture(i) for i in numbers], texts)
    weights = torch.nn.functional.normalize(text.view(6, 3, -1).mean(1), dim=-1)
    logits, labels = (image @ weights.T).numpy(), np.array(numbers) % 6
    assert result.metrics["acc1"] == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))
    assert result.metrics["acc5"] == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5))
    balanced = metrics.balanced_accuracy_score(labels, logits.argmax(1))
    assert result.metrics["mean_per_class_recall"] == pytest.approx(balanced)
    assert result.sizes == {"images": 40, "classes": 6, "templates": 3}
    torch.testing.assert_close(
        classifier.build(embedder, toy.COLOURS, TEMPLATES), weights, atol=bounds.bound(terms=512), rtol=0
    )


def test_several_classes_a_picture(toy, embedder, layout, model_folder):
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 2, (40, 6))

    def encode(vector):
        out = io.BytesIO()
        np.save(out, vector)
        return out.getvalue()

    members = {f"s{i:07d}": {"png": toy.picture(i), "npy": encode(vectors[i])} for i in range(40)}
    result = zero_shot.run(embedder, layouts.read(layout(members, "multilabel")))
    numbers = [i for part in (0, 1) for i in range(part, 40, 2)]
    image, text = toy.peer_features(model_folder, [toy.picture(i) for i in numbers], toy.COLOURS)
    expected = metrics.average_precision_score(vectors[numbers], (image @ text.T).numpy(), average="macro")
    assert result.metrics == {"mean_average_precision": pytest.approx(expected, abs=bounds.bound(terms=16))}


def test_ordinary_shards_name_their_classes_by_a_field(toy, shards):
    data = ordinary(shards, caption="", label="json:colour")
    assert list(data.classnames) == sorted(toy.COLOURS)
    assert [data.classnames[i] for i in data.labels] == [toy.COLOURS[i % 6] for i in range(60)]
    several = ordinary(shards, caption="", label="json:tags")
    assert several.multilabel
    assert list(several.classnames) == sorted(toy.COLOURS + toy.SHAPES)
    assert several.labels.sum(1).tolist() == [2] * 60
    numbered = ordinary(shards, caption="", label="cls", classnames=toy.COLOURS)
    assert numbered.labels.tolist() == [i % 6 for i in range(60)]


def test_each_class_may_have_its_own_prompts(embedder):
    own = {"red": ["a red thing", "crimson"], "blue": ["{c} as the sea"]}
    texts, owner = classifier.prompts(["blue", "red"], own)
    assert texts == ["blue as the sea", "a red thing", "crimson"]
    assert owner.tolist() == [0, 1, 1]
    weights = classifier.build(embedder, ["blue", "red"], own)
    mean = embedder.texts(["a red thing", "crimson"]).mean(0)
    torch.testing.assert_close(weights[1], mean / mean.norm())


def test_undecodable_pictures_are_left_out_and_counted(toy, embedder, layout):
    members = {f"s{i:07d}": {"png": toy.picture(i) if i % 10 else b"not a picture", "cls": b"1"} for i in range(40)}
    members["odd"] = {"png": toy.picture(1)}  # no class
    result = zero_shot.run(embedder, layouts.read(layout(members)))
    assert result.sizes["images"] == 36
    assert result.skipped == {"no_label": 1, "bad_image": 4}


def test_broken_layouts_get_a_sentence_and_no_number(classification, layout):
    def refused(match, **kwargs):
        with pytest.raises(UserError, match=match):
            layouts.read(classification, **kwargs)

    refused("no such split; did you mean test", split="tset")
    count = classification / "test" / "nshards.txt"
    for text, match in (("3", r"says 3, but 2 shards are there \(2.tar is missing\)"), ("1", "1.tar is not counted")):
        count.write_text(text)
        refused(match)
    count.write_text("many")
    refused("must hold the number of shards")
    count.unlink()
    refused("must hold the number of shards")
    count.write_text("2")
    names = classification / "classnames.txt"
    names.write_text("red\ngreen\nblue\n")
    refused("has class 4, but the 3 classes are 0 to 2")
    names.write_text("red\n\nblue\n")
    refused("line 2 is empty")
    names.unlink()
    refused("no classnames.txt there")
    (classification / "dataset_type.txt").write_text("retreival")
    refused("may say retrieval or multilabel")


def test_broken_labels_and_templates_get_a_sentence(toy, shards, embedder, tmp_path):
    with pytest.raises(UserError, match=r"template 1, 'a photo', has no slot \{c\}"):
        zero_shot.run(embedder, ordinary(shards, caption="", label="json:colour", templates=["a photo"]))
    with pytest.raises(UserError, match="no sample has json:color; write json:colour"):
        ordinary(shards, caption="", label="json:color")
    with pytest.raises(UserError, match="say what the classes are called"):
        ordinary(shards, caption="", label="cls")
    with pytest.raises(UserError, match="sample p002: its class 'blue' is not one of the 2 class"):
        ordinary(shards, caption="", label="json:colour", classnames=["red", "green"])
    with pytest.raises(UserError, match="nothing for class 'red'"):
        classifier.prompts(["red"], {"blue": ["x"]})
    empty = toy.write_tar(tmp_path / "empty" / "0.tar", {})
    with pytest.raises(UserError, match="no usable sample"):
        open_set(str(empty), label="json:colour")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="neither shards"):
        open_set(str(tmp_path / "folder"))


def test_a_set_without_classes_is_refused(shards, embedder):
    with pytest.raises(UserError, match="has no classes; name a label with --label"):
        zero_shot.run(embedder, ordinary(shards))


def test_the_command_writes_what_clip_benchmark_reads(toy, shards, model_folder, tmp_path, capsys):
    out = tmp_path / "r.json"
    argv = [
        str(model_folder),
        "--data",
        shards,
        "--label",
        "json:colour",
        "--template",
        "a {c} one",
        "--output",
        str(out),
    ]
    zero_shot.main(argv)
    tree = json.loads(out.read_text())
    assert set(tree["metrics"]) == {"acc1", "acc5", "mean_per_class_recall"}
    assert tree["task"] == "zeroshot_classification"
    assert set(tree["hashes"]) == {"model", "images", "annotations", "transform", "prompts"}
    assert "acc1" in capsys.readouterr().out
    shown = json.loads(out.with_suffix(".examples.json").read_text())["guesses"]
    assert len(shown) == 12
    assert shown[0]["truth"] == "red"
    assert base64.b64decode(shown[0]["image"]) == toy.picture(0)
    assert sum(share for _, share in shown[0]["guesses"]) <= 1 + 1e-6
    zero_shot.main([*argv, "--skip_existing"])
    assert "nothing done" in capsys.readouterr().out
