"""Every kind of source becomes the same set, and goes through CLIP_benchmark's layout and back unchanged."""

import json

import numpy as np
import pytest
import torch
from mmclr.data_tools.commands.convert import to_eval
from mmclr.eval.sets import layout
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.sets.sources import open_set

from mmclr.errors import UserError


@pytest.fixture
def pictures(toy, tmp_path):
    """Six images in two class folders."""
    root = tmp_path / "folder"
    for i in range(6):
        place = root / ("fire_truck" if i % 2 else "bus")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(toy.picture(i))
    return root


def same(one, two):
    """Whether two sets hold the same images with the same annotations, in any order."""

    def content(data):
        captions = [tuple(c) for c in data.captions] or [()] * len(data)
        labels = [None] * len(data) if data.labels is None else [str(x.tolist()) for x in data.labels]
        return sorted(zip([data.read(i) for i in range(len(data))], captions, labels), key=repr)

    return content(one) == content(two) and list(one.classnames) == list(two.classnames)


@pytest.mark.parametrize("label", ["", "json:colour", "json:tags"])
def test_the_layout_keeps_pictures_captions_and_classes(shards, tmp_path, label):
    data = ordinary(shards, caption="" if label else "json:titles", label=label, templates=["a {c}", "{c} here"])
    root = layout.write(data, tmp_path / "wds_out", shards=7)
    back = open_set(str(root))
    assert same(data, back)
    assert back.multilabel == data.multilabel
    if label:
        assert list(back.templates) == ["a {c}", "{c} here"]
    assert (root / "test" / "nshards.txt").read_text() == "7\n"
    layout.write(data, root, shards=3)  # a set written over another leaves nothing of it
    assert same(data, open_set(str(root)))


def test_captions_with_line_breaks_survive(toy, tmp_path):
    data = EvalSet("x", lambda i: toy.picture(i), ["a", "b"], captions=[["one\ntwo", "three"], ["four"]])
    assert same(data, open_set(str(layout.write(data, tmp_path / "wds_x"))))


def test_a_folder_of_class_folders(pictures):
    data = open_set(str(pictures), templates=["a {c}"])
    assert list(data.classnames) == ["bus", "fire truck"]
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(data.templates) == ["a {c}"]
    named = open_set(str(pictures), classnames=["coach", "engine"])
    assert list(named.classnames) == ["coach", "engine"]
    with pytest.raises(UserError, match="2 class folders, but 1 class names"):
        open_set(str(pictures), classnames=["coach"])


def test_a_table_of_files(pictures, toy):
    path = pictures.parent / "captions.csv"
    rows = ["folder/bus/0.png,one", "folder/bus/2.png,two", 'folder/bus/0.png,"three, with a comma"']
    path.write_text("\n".join(["filepath,title", *rows]))
    data = open_set(str(path))
    assert [list(c) for c in data.captions] == [["one", "three, with a comma"], ["two"]]
    assert data.read(0) == toy.picture(0)
    path.write_text("file,text\na,b")
    with pytest.raises(UserError, match="its columns are file, text; filepath and title are needed"):
        open_set(str(path))
    path.write_text("filepath,title\nnone.png,b")
    with pytest.raises(UserError, match=r"none.png: no such image, and 0 more; say where they lie: --images"):
        open_set(str(path))


def test_karpathys_and_cocos_captions(pictures):
    image = {"filename": "2.png", "filepath": "bus", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]}
    other = {**image, "filename": "4.png", "split": "train"}
    path = pictures / "dataset.json"
    path.write_text(json.dumps({"images": [image, other]}))
    assert [list(c) for c in open_set(str(path)).captions] == [["a", "b"]]
    with pytest.raises(UserError, match="no split 'val'; it has test, train"):
        open_set(str(path), split="val")
    coco = {"images": [{"id": 7, "file_name": "4.png"}], "annotations": [{"image_id": 7, "caption": c} for c in "xyz"]}
    path.write_text(json.dumps(coco))
    data = open_set(str(path), images=pictures / "bus")
    assert [list(c) for c in data.captions] == [["x", "y", "z"]]
    path.write_text("[]")
    with pytest.raises(UserError, match="neither Karpathy's nor COCO's"):
        open_set(str(path))


def test_the_command(shards, tmp_path, capsys):
    out = tmp_path / "wds_tags"
    to_eval.main(["--data", shards, "--label", "json:tags", "--out", str(out), "--shards", "2"])
    assert "60 images" in capsys.readouterr().out
    assert (out / "dataset_type.txt").read_text() == "multilabel\n"
    assert np.array_equal(open_set(str(out)).labels.sum(1), torch.full((60,), 2))


def test_the_command_takes_every_source(pictures, shards, tmp_path):
    """And what it writes is the set that was named."""
    root = pictures.parent
    (root / "captions.csv").write_text("filepath,title\nfolder/bus/0.png,one\nfolder/bus/2.png,two\n")
    image = {"filename": "2.png", "filepath": "bus", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]}
    (pictures / "karpathy.json").write_text(json.dumps({"images": [image]}))
    coco = {"images": [{"id": 7, "file_name": "bus/4.png"}], "annotations": [{"image_id": 7, "caption": "x"}]}
    (pictures / "coco.json").write_text(json.dumps(coco))
    layout.write(ordinary(shards, label="json:colour"), tmp_path / "wds_other")
    sources = [
        pictures,
        root / "captions.csv",
        pictures / "karpathy.json",
        pictures / "coco.json",
        tmp_path / "wds_other",
        shards,
    ]
    for number, source in enumerate(map(str, sources)):
        out = tmp_path / f"wds_{number}"
        to_eval.main(["--data", source, "--out", str(out)])
        assert same(open_set(source), open_set(str(out)))
