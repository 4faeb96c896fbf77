"""Compositional and conditional tasks: the forms of their files, the cards' numbers, ties, chance."""

import io
import json

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets import instances
from mmclr.eval.suites.retrieval import compositional, conditional
from PIL import Image

from mmclr.errors import UserError


@pytest.fixture(scope="module")
def embedder(model_folder):
    return Embedder.load(model_folder, device="cpu")


@pytest.fixture
def folder(toy, tmp_path):
    """Eight images, named as files, as COCO and as Visual Genome name them."""
    for i in range(8):
        for name in (f"{i}.png", f"{i:012d}.jpg", f"{i}.jpg"):
            (tmp_path / name).write_bytes(toy.picture(i))
    return tmp_path


def write(folder, name, tree):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, tree)) if name.endswith("jsonl") else json.dumps(tree))
    return path


def test_judging_and_ties():
    judge = compositional.judge
    assert judge(torch.tensor([[0.9, 0.1]])) == (True, True, False)
    assert judge(torch.tensor([[0.5, 0.5]])) == (False, True, True)  # SugarCrepe's collapsed model is wrong
    assert judge(torch.tensor([[0.9, 0.1], [0.2, 0.8]])) == (True, True, False)
    assert judge(torch.tensor([[0.9, 0.1], [0.95, 0.99]])) == (True, False, False)
    assert judge(torch.tensor([[0.9, 0.95], [0.2, 0.99]])) == (False, True, False)
    assert judge(torch.tensor([[0.9, 0.1, 0.3, 0.2, 0.91]])) == (False, True, False)


def brute(embedder, found, folder):
    """Share of instances in which every image scores its own caption strictly highest."""
    right = []
    for instance in found:
        data, number = instances.images_of([instance], folder, "one")
        image, text = embedder.images(data).images, embedder.texts(list(instance.captions))
        rows = [image[number[s]] for s in instance.images]
        scores = [[float(r @ t) for t in text] for r in rows]
        right.append(all(all(s[i] > s[j] for j in range(len(s)) if j != i) for i, s in enumerate(scores)))
    return np.mean(right)


def test_the_forms_of_files(folder, embedder):
    crepe = {str(i): {"filename": f"{i}.png", "caption": f"red {i}", "negative_caption": f"blue {i}"} for i in range(8)}
    found = instances.read(write(folder, "swap.json", crepe))
    result = compositional.run(embedder, found, folder, "swap")
    assert result.metrics == {"text_acc": pytest.approx(brute(embedder, found, folder))}
    pairs = [{"image_0": str(i), "image_1": str(i + 1), "caption_0": f"a {i}", "caption_1": f"{i} b"} for i in range(7)]
    found = instances.read(write(folder, "examples.jsonl", pairs))
    result = compositional.run(embedder, found, folder, "winoground")
    assert set(result.metrics) == {"text_acc", "image_acc", "acc"}
    assert result.metrics["text_acc"] == pytest.approx(brute(embedder, found, folder))
    assert result.metrics["acc"] <= min(result.metrics["text_acc"], result.metrics["image_acc"])
    plain = [{"image": f"{i}.png", "captions": [f"x {i}", "y", "z", "w", "v"]} for i in range(8)]
    assert len(instances.read(write(folder, "order.jsonl", plain))[0].captions) == 5


def test_aro_is_the_mean_over_relations_of_boxes(folder, embedder):
    box = {"bbox_x": 4, "bbox_y": 6, "bbox_w": 20, "bbox_h": 10}
    entries = [
        {
            "image_path": f"{i}.png",
            "true_caption": f"{i} on a bar",
            "false_caption": f"bar on {i}",
            **box,
            "relation_name": "on" if i < 6 else "under",
        }
        for i in range(8)
    ]
    found = instances.read(write(folder, "vg.json", entries))
    data, _ = instances.images_of(found, folder, "vg")
    assert Image.open(io.BytesIO(data.read(0))).size == (20, 10)
    result = compositional.run(embedder, found, folder, "vg")
    parts = [brute(embedder, [f for f in found if f.group == g], folder) for g in ("on", "under")]
    assert result.metrics["text_acc"] == pytest.approx(np.mean(parts))
    rare = [{**e, "attributes": ["red", "blue" if i < 7 else "odd"]} for i, e in enumerate(entries * 4)]
    for entry in rare:
        entry.pop("relation_name")
    assert {f.group for f in instances.read(write(folder, "attribution.json", rare))} == {"red_odd"}


def test_broken_files_get_a_sentence(folder, embedder):
    with pytest.raises(UserError, match="no form that is known"):
        instances.read(write(folder, "x.json", [{"a": 1}]))
    with pytest.raises(UserError, match="an entry lacks 'caption'"):
        instances.read(write(folder, "x.json", [{"negative_caption": "b", "filename": "c"}]))
    with pytest.raises(UserError, match="no such file"):
        instances.read(folder / "none.json")
    found = [instances.Instance((("gone.png", None),), ("a", "b"))]
    with pytest.raises(UserError, match="gone.png: no such image, and 0 more"):
        compositional.run(embedder, found, folder, "x")


def test_the_crop_of_genecis_is_the_cards():
    assert conditional.crop_box((100, 50, 40, 20), 640, 480) == (72, 36, 140, 70)
    assert conditional.crop_box((10, 5, 40, 20), 640, 480) == (0, 0, 68, 34)


@pytest.mark.parametrize("seed", range(5))
def test_the_crop_of_genecis_is_what_pillow_makes_of_the_papers_numbers(seed):
    """Their code keeps fractions to the end and gives them to Image.crop, which rounds."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (int(rng.integers(30, 90)), int(rng.integers(30, 90)), 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for _ in range(40):
        x, y = (int(rng.integers(0, side - 5)) for side in image.size)
        w, h = int(rng.integers(2, 30)), int(rng.integers(2, 30))
        left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
        box = left, top, min(image.width, left + 1.7 * w), min(image.height, top + 1.7 * h)
        theirs = image.crop(box)
        ours = image.crop(conditional.crop_box((x, y, w, h), *image.size))
        assert ours.size == theirs.size
        assert ours.tobytes() == theirs.tobytes()
    assert conditional.crop_box((5, 7, 3, 9), 100, 100) == (3, 1, 8, 16)  # 2.9, 0.7, 8.0, 16.0


def test_a_box_is_padded_to_a_square_in_the_middle(toy):
    image = Image.open(io.BytesIO(instances.cut(toy.picture(0), (0, 0, 30, 10), square=True)))
    pixels = np.asarray(image)
    assert image.size == (30, 30)
    assert not pixels[:10].any()
    assert pixels[10:20].any()


def test_the_cards_gallery():
    """ref (2, 0), text (0, 1): in unit vectors the mix ties the target with one wrong image at the top."""
    images = torch.tensor([[0.6, 0.8], [1.0, 0], [0, 1], [0.8, 0.6]])
    gallery = [[0, 1, 2, 3]]
    reference, text = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 1]])

    def hits(how):
        query = torch.nn.functional.normalize(conditional.BASELINES[how](reference, text), dim=-1)
        ranks = conditional._ranks(query, images, gallery)
        return [float(ranks.hits(k)) for k in (1, 2, 3, 4)]

    assert hits("image_only") == [0, 0, 1, 1]
    assert hits("text_only") == [0, 1, 1, 1]
    # The mix ties the target with (.8, .6) at the top; whole numbers make the tie exact.
    exact = conditional._ranks(torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 4], [5, 0], [0, 5], [4, 3]]), gallery)
    assert [float(exact.hits(k)) for k in (1, 2)] == [0.5, 1]
    raw = conditional._ranks(torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0, 4], [5, 0], [0, 5], [4, 3]]), gallery)
    assert [float(raw.hits(k)) for k in (1, 2, 3)] == [0, 0.5, 1]  # the paper's raw mix: one better, one tied


def test_genecis_runs_and_a_collapsed_model_gets_chance(folder, embedder, monkeypatch):
    def item(i, boxed):
        return {"image_id": i, "instance_bbox": [5, 5, 20, 10]} if boxed else {"val_image_id": i}

    for task in conditional.TASKS:
        boxed = "attribute" in task
        entries = [
            {
                "reference": item(i, boxed),
                "target": item((i + 1) % 8, boxed),
                "condition": f"colour {i}",
                "gallery": [item((i + j) % 8, boxed) for j in range(2, 6)],
            }
            for i in range(8)
        ]
        write(folder, f"{task}.json", entries)
    tasks = conditional.read(folder)
    result = conditional.run(embedder, tasks, folder, "genecis")
    means = [result.metrics[f"{task}_text_only_recall@1"] for task in conditional.TASKS]
    assert result.metrics["average_text_only_recall@1"] == pytest.approx(np.mean(means))
    recalls = [result.metrics[f"focus_object_image_only_recall@{k}"] for k in (1, 2, 3)]
    assert recalls == sorted(recalls)
    one = conditional._ranks(torch.ones(8, 4), torch.ones(8, 4), [[0, 1, 2, 3, 4]] * 8)
    assert float(one.hits(1).mean()) == pytest.approx(1 / 5)
    with pytest.raises(UserError, match="no task there"):
        conditional.read(folder / "nothing")


def test_the_commands(folder, model_folder, tmp_path, capsys):
    crepe = {str(i): {"filename": f"{i}.png", "caption": f"red {i}", "negative_caption": f"blue {i}"} for i in range(8)}
    path = write(folder, "swap.json", crepe)
    compositional.main([str(model_folder), "--data", str(path), "--out", str(tmp_path / "c.json")])
    assert json.loads((tmp_path / "c.json").read_text())["dataset"] == "swap"
    entries = [
        {
            "reference": {"val_image_id": 0},
            "target": {"val_image_id": 1},
            "gallery": [{"val_image_id": 2}],
            "condition": "same colour",
        }
    ]
    conditional.main([str(model_folder), "--data", str(write(folder, "focus_object.json", entries))])
    assert "focus_object_text_only_recall@1" in capsys.readouterr().out
