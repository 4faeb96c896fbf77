"""`mmclr data pack` of samples with several images: columns, lists and folders, to what the loader reads."""

import json

import pytest

from mmclr import cli
from mmclr.config import load
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import IMAGES, Shards
from mmclr.data.stream.loader import DataConfig, Loader
from tests.data.made import picture, take


def packed(out):
    """Return {key: members} of what was packed."""
    indices = open_indices([str(path) for path in sorted(out.glob("*.tar"))])
    members = {name for index in indices for name in index.extensions}
    shards = Shards(indices, ("txt",), ("json", *members), images=[n for n in members if n.split(".")[-1] in IMAGES])
    return {shards.read(n).key: shards.read(n).members for n in range(len(shards))}


def run(*args):
    return cli.main(["data", "pack", *map(str, args), "--workers", "0"])


@pytest.fixture
def table(tmp_path):
    """Four products of up to two photos: both, no second, a second that is no image, none that can be used."""
    for number in range(4):
        (tmp_path / f"f{number}.png").write_bytes(picture(number))
        (tmp_path / f"b{number}.png").write_bytes(picture(100 + number))
    (tmp_path / "b2.png").write_bytes(b"not an image")
    rows = ["front,back,caption,price", "f0.png,b0.png,zero,1", "f1.png,,one,2", "f2.png,b2.png,two,3", ",,none,4"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path / "table.csv"


def test_columns_are_images_of_one_sample(table, tmp_path, capsys):
    assert run(table, tmp_path / "out", "--image", "front", "back") == 0
    found = packed(tmp_path / "out")
    assert [list(members) for members in found.values()] == [
        ["png", "1.png", "txt", "json"],
        *[["png", "txt", "json"]] * 2,
    ]
    first = found["000000000"]
    assert (first["png"], first["1.png"]) == (picture(0), picture(100))
    assert json.loads(first["json"]) == {"caption": "zero", "price": "1", "images": ["png", "1.png"]}
    said = capsys.readouterr().out
    assert "1 sample kept: one of the images that data.images names is not there" in said
    assert "it lacks back" in said
    assert "1 sample kept: one of its images cannot be used" in said
    assert "the sample has no image" in said


def test_a_list_in_a_column_is_images_of_one_sample(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [{"photos": ["0.png", "1.png", "2.png"], "caption": "all"}, {"photos": ["2.png"], "caption": "one"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(tmp_path / "t.jsonl", tmp_path / "out", "--image", "photos") == 0
    found = list(packed(tmp_path / "out").values())
    assert json.loads(found[0]["json"]) == {"caption": "all", "images": ["png", "1.png", "2.png"]}
    assert json.loads(found[1]["json"]) == {"caption": "one", "images": ["png"]}


def test_folders_are_items(tmp_path):
    """Images in the order of their names; captions beside the folder, in it, or its name."""
    root = tmp_path / "products"
    for item, count in (("red_mug", 2), ("blue_jug", 3), ("v1.2", 1)):
        (root / item).mkdir(parents=True)
        for at in range(count):
            (root / item / f"{at}.png").write_bytes(picture(10 * count + at))
    (root / "blue_jug.txt").write_text("a jug, blue")
    (root / "v1.2" / "about.txt").write_text("the new version")
    (root / "v1.2" / "facts.json").write_text('{"size": 7}')
    assert run(root, tmp_path / "out", "--items") == 0
    found = [(m["txt"].decode(), json.loads(m["json"]), m["png"]) for m in packed(tmp_path / "out").values()]
    assert found == [
        ("a jug, blue", {"path": "blue_jug", "images": ["png", "1.png", "2.png"]}, picture(30)),
        ("red mug", {"path": "red_mug", "images": ["png", "1.png"]}, picture(20)),
        ("the new version", {"path": "v1.2", "size": 7, "images": ["png"]}, picture(10)),
    ]


def test_what_was_packed_is_trained_on(tmp_path, tokenizer):
    for number in range(8):
        folder = tmp_path / "items" / f"number_{number}"
        folder.mkdir(parents=True)
        for at in range(1 + number % 3):
            (folder / f"view{at}.png").write_bytes(picture(number + 50 * at))
    run(tmp_path / "items", tmp_path / "out", "--items")
    settings = {"train": str(tmp_path / "out/*.tar"), "batch": 8, "workers": 0}
    config = load(DataConfig, {**settings, "images": "json:images", "images_at_most": 3})
    [batch] = take(Loader(config, tokenizer, 24, 1), 1)
    assert sorted(batch.image_counts.tolist()) == [1, 1, 1, 2, 2, 2, 3, 3]


def test_what_cannot_be_packed_so_is_said(table, tmp_path, capsys):
    assert run(table, tmp_path / "a", "--items") == 2
    assert "--items makes one sample of each folder of a folder, and this is a table" in capsys.readouterr().err
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(picture(0))
    assert run(tmp_path / "flat", tmp_path / "b", "--items") == 2
    assert "no folder in it has an image" in capsys.readouterr().err
    rows = [{"image": ["f0.png"], "caption": "x", "images": 3}, {"image": "f1.png", "caption": "y"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "t.jsonl", tmp_path / "c")
    assert "its field images is in the way of the list of its images; rename it" in capsys.readouterr().out
    item = tmp_path / "two" / "item"
    item.mkdir(parents=True)
    (item / "a.png").write_bytes(picture(0))
    for name in ("a.txt", "b.txt"):
        (item / name).write_text("which?")
    assert run(tmp_path / "two", tmp_path / "d", "--items") == 1
    assert "2 files .txt in it, and no item.txt beside it says which" in capsys.readouterr().out


def test_one_column_is_packed_as_it_was(tmp_path):
    """No list of images, and the settings' digest of earlier packings."""
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "t.csv").write_text("image,caption\n0.png,zero\n")
    run(tmp_path / "t.csv", tmp_path / "out")
    assert json.loads(packed(tmp_path / "out")["000000000"]["json"]) == {"caption": "zero"}
    state = json.loads((tmp_path / "out/packed.json").read_text())
    assert state["settings"]["columns"] == ["image", "caption"]
    assert "items" not in state["settings"]
