"""Collages: pixels, masks and boxes known to the pixel, by drawing the sources here and by COCO's and our readers."""

import io
import json
import tarfile

import numpy as np
import pytest
from mmclr.data_tools.lib import collages
from PIL import Image, ImageDraw

from mmclr import cli
from mmclr.data.columns import Kind
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.values import boxes
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from tests.data.filled import fill, indices_of
from tests.data.images import WHOLE
from tests.data.made import contents, take, write_tar

WRITES = {"data collage": ["{here}/shards/0.tar", "{out}", "--count", "3", "--size", "16", "--masks", "png"]}
SIDE = 24
COLOURS = [(200, 30, 30), (30, 180, 30), (30, 30, 200), (220, 200, 30), (140, 30, 160), (20, 140, 140)]


def encode(image, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def drawn(number, size=(SIDE, SIDE)):
    """A rectangle of a colour of its own on white; where it lies."""
    left, top = 2 + number % 5, 3 + number % 4
    place = (left, top, size[0] - 4 - number % 3, size[1] - 2 - number % 4)
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=COLOURS[number % 6])
    return image, place


def sample(number, **changes):
    facts = {"title": f"thing {number}", "kind": f"kind {number % 6}"}
    return {
        "png": encode(drawn(number)[0]),
        "txt": f"thing number {number}".encode(),
        "json": json.dumps(facts).encode(),
        **changes,
    }


def write(folder, samples):
    folder.mkdir(exist_ok=True)
    members = [(f"k{n:03d}.{ext}", data) for n, own in samples.items() for ext, data in own.items()]
    return str(write_tar(folder / "0.tar", members))


@pytest.fixture
def urls(tmp_path):
    return write(tmp_path / "in", {n: sample(n) for n in range(12)})


def run(*args):
    return cli.main(["data", "collage", *map(str, args)])


def read(folder):
    """Return {key: {member: bytes}} by tarfile alone."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                found.setdefault(key, {})[ending] = tar.extractfile(member).read()
    return found


def unpacked(mask):
    """Return the pixels of COCO's uncompressed run lengths."""
    values = np.repeat(np.arange(len(mask["counts"])) % 2, mask["counts"])
    return values.reshape(mask["size"][::-1]).T.astype(bool)


@pytest.mark.parametrize("grid", [2, 3])
def test_every_pixel_box_and_mask(urls, tmp_path, grid):
    """Sources as large as a cell are not resized, so that all is known from how they were drawn."""
    args = ("--grid", grid, "--size", SIDE, "--count", 7, "--label", "json:kind")
    assert run(urls, tmp_path / "rle", *args, "--masks", "rle") == 0
    assert run(urls, tmp_path / "png", *args, "--masks", "png") == 0
    found, files = read(tmp_path / "rle"), read(tmp_path / "png")
    assert len(found) == 7
    for key, members in found.items():
        facts, canvas = json.loads(members["json"]), np.asarray(Image.open(io.BytesIO(members["png"])))
        numbers = [int(source[1:]) for source in facts["sources"]]
        assert len(set(numbers)) == grid**2 == len(facts["boxes"]) == len(facts["masks"])
        assert members["txt"].decode() == f"thing number {numbers[facts['named']]}"
        assert facts["names"] == [f"thing number {n}" for n in numbers]
        assert facts["labels"] == [f"kind {n % 6}" for n in numbers]
        assert boxes(facts["boxes"], "boxes") == facts["boxes"]
        for at, (number, box) in enumerate(zip(numbers, facts["boxes"])):
            x, y = at % grid * SIDE, at // grid * SIDE
            image, (left, top, right, bottom) = drawn(number)
            assert (canvas[y : y + SIDE, x : x + SIDE] == np.asarray(image)).all()
            np.testing.assert_allclose(
                np.array(box) * grid * SIDE, [x + left, y + top, x + right, y + bottom], atol=1e-9
            )
            mask = np.zeros(canvas.shape[:2], bool)
            mask[y + top : y + bottom, x + left : x + right] = True
            assert (unpacked(facts["masks"][at]) == mask).all()
            other = np.asarray(Image.open(io.BytesIO(files[key][json.loads(files[key]["json"])["masks"][at]])))
            assert (other == mask * 255).all()


def test_cells_hold_the_whole_image_resized():
    """The longer side fills the cell, the rest is white on either side; no image is cut or stretched."""
    for size, inside in (((60, 30), (24, 12)), ((31, 90), (8, 24)), ((500, 1), (24, 1))):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (size[1], size[0], 3), np.uint8))
        made = collages.cell(encode(image), 24)
        left, top = (24 - inside[0]) // 2, (24 - inside[1]) // 2
        expected = Image.new("RGB", (24, 24), "white")
        expected.paste(image.resize(inside, Image.Resampling.BICUBIC), (left, top))
        assert (made.pixels == np.asarray(expected)).all()
        whole = np.zeros((24, 24), bool)
        whole[top : top + inside[1], left : left + inside[0]] = True
        assert (made.mask == whole).all()


def test_masks_of_every_kind():
    ring = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(ring).rectangle((4, 4, 19, 19), outline=(0, 0, 0), width=2)
    full = np.zeros((SIDE, SIDE), bool)
    full[4:20, 4:20] = True
    assert (collages.cell(encode(ring), SIDE).mask == full).all(), "white within it is its own"
    ring.putpixel((0, 0), (120, 0, 0))
    assert collages.cell(encode(ring), SIDE).mask.all(), "a corner that is not white: all of it"
    alpha = np.full((SIDE, SIDE, 4), (9, 9, 9, 127), np.uint8)
    alpha[3:7, 5:11, 3] = 128
    expected = np.zeros((SIDE, SIDE), bool)
    expected[3:7, 5:11] = True
    assert (collages.cell(encode(Image.fromarray(alpha)), SIDE).mask == expected).all()
    nearly = Image.new("RGB", (SIDE, SIDE), (230, 230, 230))
    nearly.paste((230, 229, 230), (8, 9, 10, 12))
    assert collages.box(collages.cell(encode(nearly), SIDE).mask) == [8 / 24, 9 / 24, 10 / 24, 12 / 24]
    palette = Image.new("P", (SIDE, SIDE), 0)
    palette.putpalette([255, 255, 255, 10, 20, 30])
    palette.paste(1, (2, 2, 5, 9))
    palette.info["transparency"] = 0
    assert collages.cell(encode(palette), SIDE).mask.sum() == 21


@pytest.mark.parametrize("kind", WHOLE)
def test_every_format_is_laid(kind):
    made = collages.cell(WHOLE[kind], 32)
    assert (made.pixels[0] == 255).all() != made.mask[0].any()
    assert made.mask.any()


@pytest.mark.parametrize("data", [encode(Image.new("RGB", (9, 9), "white")), encode(Image.new("RGBA", (9, 9), 0))])
def test_what_shows_nothing_is_a_fault(data):
    with pytest.raises(Fault, match="all of it is white or transparent") as caught:
        collages.cell(data, 16)
    assert caught.value.reason == "blank_image"


def test_boxes_follow_the_crops_of_training(urls, tmp_path, make_loader):
    """In a crop, where image_box moves the named box to, its colour is, and nowhere else in its cell."""
    run(urls, tmp_path / "out", "--size", SIDE, "--count", 24)
    fields = {"boxes": {"values": "json:boxes", "most": 4}}
    augment = {"crop_scale": [0.3, 1.0], "crop_ratio": [1.0, 1.0]}
    loader = make_loader(size=96, train=str(tmp_path / "out/*.tar"), batch=24, fields=fields, augment=augment)
    [batch] = take(loader, 1)
    facts = {key: json.loads(members["json"]) for key, members in read(tmp_path / "out").items()}
    places = np.stack(np.meshgrid(np.arange(96) + 0.5, np.arange(96) + 0.5), -1)  # x, y of each pixel
    inner = outer = 0
    for row, key in enumerate(batch.keys):
        crop, pixels = batch.image_box[row].double().numpy(), batch.pixels[row].numpy().astype(int)
        found = batch.fields["boxes"][row].double().numpy()
        np.testing.assert_allclose(found, facts[key]["boxes"], atol=1e-6)
        white = np.ones((96, 96), bool)
        blur = 2 * 96 / (2 * SIDE) / (crop[2:] - crop[:2])  # bicubic looks at two pixels on either side
        for source, box in zip(facts[key]["sources"], found):
            low, high = (box.reshape(2, 2) - crop[:2]) / (crop[2:] - crop[:2]) * 96
            inside = ((places > low + blur) & (places < high - blur)).all(-1)
            colour = np.array(COLOURS[int(source[1:]) % 6])[:, None]
            assert np.abs(pixels[:, inside] - colour).max(initial=0) <= 1
            white &= ~((places > low - blur) & (places < high + blur)).all(-1)
            inner += inside.sum()
        assert (pixels[:, white] >= 254).all()
        outer += white.sum()
    assert inner > 5000
    assert outer > 500


def test_the_same_seed_gives_the_same_bytes(urls, tmp_path, monkeypatch):
    args = ("--size", 16, "--count", 9, "--samples", 4)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(urls, tmp_path / name, *args, "--seed", seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")
    assert len(list((tmp_path / "a").glob("*.tar"))) == 3
    make, calls = collages.Maker.__call__, []

    def stopped(self, number):
        calls.append(number)
        if number == 6 and calls.count(6) == 1:
            raise KeyboardInterrupt
        return make(self, number)

    monkeypatch.setattr(collages.Maker, "__call__", stopped)
    assert run(urls, tmp_path / "d", *args, "--seed", 3) == 130
    run(urls, tmp_path / "d", *args, "--seed", 3)
    assert calls == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]
    assert contents(tmp_path / "a") == contents(tmp_path / "d")


def test_draws_are_even(urls):
    """Each source is met about as often as others, in every cell, and every cell is named as often."""
    make = collages.Maker(Shards(open_indices([urls]), ("txt",)), size=8)
    facts = [make(number).facts for number in range(300)]
    met = np.bincount([int(source[1:]) for each in facts for source in each["sources"]], minlength=12)
    named = np.bincount([each["named"] for each in facts], minlength=4)
    assert abs(met - 100).max() < 5 * np.sqrt(100 * (2 / 3))  # 4 of 12: variance 300/3 * 2/3
    assert abs(named - 75).max() < 5 * np.sqrt(75 * 0.75)


def test_faults_are_counted_once_each(tmp_path, capsys):
    bad = {
        0: sample(0, png=b"no image"),
        1: sample(1, png=encode(Image.new("RGB", (9, 9), "white"))),
        2: sample(2, txt=b" "),
        3: sample(3, json=b"{}"),
        4: sample(4, txt=b"Thing  NUMBER 5"),
    }
    urls = write(tmp_path / "in", {n: bad.get(n) or sample(n) for n in range(12)})
    fill(indices_of(urls), "x", Kind("float32"), np.arange(12.0))
    args = ("--size", 16, "--count", 40, "--label", "json:kind", "--json")
    assert run(urls, tmp_path / "out", *args) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == dict.fromkeys(("bad_image", "blank_image", "empty_caption", "no_label"), 1)
    for members in read(tmp_path / "out").values():
        sources = json.loads(members["json"])["sources"]
        assert not {"k000", "k001", "k002", "k003"} & {*sources}
        assert not {"k004", "k005"} <= {*sources}, "equal captions name two"
    run(urls, tmp_path / "out", *args)
    assert json.loads(capsys.readouterr().out)["left_out"] == told["left_out"]
    run(urls, tmp_path / "dry", *args[:-1], "--dry-run")
    said = capsys.readouterr().out
    assert not (tmp_path / "dry").exists()
    for part in (
        "would be written: 40 collages of 2 x 2",
        "k001): the image shows nothing",
        "columns beside the shards",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--grid", "4"], "a collage needs 16 images with different captions, and 12 were found among 12 samples"),
        (["--grid", "1"], "--grid 1: give 2 to 16"),
        (["--size", "4"], "--size 4: give 8 to 2,048"),
        (["--caption", "json:titel"], "--caption=json:titel: no sample has it"),
        (["--label", "json:clas"], "--label=json:clas: no sample has it"),
    ],
)
def test_what_cannot_be_is_said(urls, tmp_path, capsys, args, says):
    assert run(urls, tmp_path / "out", *args) == 2
    assert says in capsys.readouterr().err
