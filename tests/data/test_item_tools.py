"""verify, stats and peek on shards whose samples have several images of names of their own, as training reads them."""

import io
import json
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image

from mmclr import cli
from tests.data.made import picture, take, write_tar

NAMES = ["front.jpg", "back.jpg"]


def run(command, *args):
    return cli.main(["data", command, *map(str, args)])


def broken(png):
    """An image whose header can be read and whose pixels cannot."""
    at = png.index(b"IDAT") + 4
    body = bytes(len(png) - at - 16)  # the checksum is that of the zeros
    return png[:at] + body + zlib.crc32(b"IDAT" + body).to_bytes(4, "big") + png[-12:]


def product(number, **changes):
    members = {
        "front.jpg": picture(number, size=(40, 32)),
        "back.jpg": picture(100 + number, size=(60, 24)),
        "txt": f"image number {number}".encode(),
        "json": json.dumps({"photos": NAMES}).encode(),
    } | {name.replace("_", "."): data for name, data in changes.items()}
    return {name: data for name, data in members.items() if data is not None}


def write(folder, samples):
    folder.mkdir(exist_ok=True)
    members = [(f"{n:03d}.{ext}", data) for n, own in enumerate(samples) for ext, data in own.items()]
    return str(write_tar(folder / "0.tar", members))


@pytest.fixture
def damaged(tmp_path):
    """Eight products: whole, no back, a broken back, both broken, neither, and one whose front is its back, too."""
    return write(
        tmp_path / "in",
        [
            *map(product, range(3)),
            product(3, back_jpg=None),
            product(4, back_jpg=broken(picture(4))),
            product(5, front_jpg=b"no", back_jpg=b"image"),
            product(6, front_jpg=None, back_jpg=None),
            product(7, front_jpg=picture(107, size=(60, 24))),
        ],
    )


def test_verify_finds_what_training_counts(damaged, tmp_path, capsys, make_loader):
    assert run("verify", damaged, "--workers", 0, "--image-members", *NAMES, "--json", tmp_path / "list") == 1
    said = capsys.readouterr().out
    listed = [json.loads(line) for line in (tmp_path / "list").read_text().splitlines()]
    assert sorted((entry["key"], entry["reason"]) for entry in listed) == [
        ("003", "missing_image"),
        ("004", "lost_image"),
        ("005", "bad_image"),
        ("006", "no_image"),
    ]
    assert "1 images were there before, byte for byte" in said
    assert "training goes on without these samples and counts them" in said
    loader = make_loader(train=damaged, images=NAMES, batch=4, size=24)
    take(loader, 2)  # more than an epoch
    met = loader.ledger.excluded.keys() | loader.ledger.counts.keys()
    assert met == {entry["reason"] for entry in listed}


def test_verify_of_a_list_in_the_json(tmp_path, capsys):
    urls = write(tmp_path / "in", [product(n) for n in range(3)])
    assert run("verify", urls, "--workers", 0, "--image-members", "json:photos") == 0
    assert "all of them can be used" in capsys.readouterr().out
    urls = write(tmp_path / "in", [*map(product, range(3)), product(3, json=b'{"photos": []}')])
    assert run("verify", urls, "--workers", 2, "--image-members", "json:photos") == 1
    assert "json:photos is an empty list" in capsys.readouterr().out


def test_an_absent_image_is_no_fault_and_a_broken_one_is(tmp_path, capsys):
    urls = write(tmp_path / "in", [product(0), product(1, front_jpg=None)])
    assert run("verify", urls, "--workers", 0, "--image-members", *NAMES) == 0
    said = capsys.readouterr().out
    assert "it lacks front.jpg" in said
    assert "all of them can be used" in said
    urls = write(tmp_path / "in", [product(0), product(1, front_jpg=b"no image")])
    assert run("verify", urls, "--workers", 0, "--image-members", *NAMES) == 1
    said = capsys.readouterr().out
    assert "one of its images cannot be used; the others are, and the sample is kept" in said
    assert "training goes on without these images and counts them" in said


def test_without_them_nothing_there_is_an_image(damaged, capsys):
    for command, more in (("verify", ()), ("stats", ()), ("peek", ("sheet.png",))):
        assert run(command, damaged, *more) == 2
        assert "no usable sample" in capsys.readouterr().err


def test_stats_count_every_image(damaged, tmp_path, capsys):
    """Sizes, bytes and formats are of images, captions of samples; means are of all pixels that training sees."""
    out = tmp_path / "mine.yaml"
    assert not run("stats", damaged, "--image-members", *NAMES, "--write", out, "--size", 24, "--json")
    seen = json.loads(capsys.readouterr().out)["looked_into"]
    assert seen["left_out"] == {"missing_image": 1, "bad_image": 1}
    assert seen["formats"] == {"PNG": 11}
    numbers = seen["numbers"]
    assert numbers["images of a sample"]["mean"] == pytest.approx(11 / 6)
    assert numbers["width, px"]["percentiles"][0] == 40
    assert numbers["width, px"]["percentiles"][-1] == 60
    assert numbers["captions of a sample"] == {"mean": 1.0, "percentiles": [1.0] * 5}
    assert seen["images that repeat another"] == 1
    whole = [picture(n, size=(40, 32)) for n in range(5)] + [picture(107, size=(60, 24))]
    whole += [picture(100 + n, size=(60, 24)) for n in (0, 1, 2, 7)]
    assert seen["bands"]["images"] == len(whole)
    means = [np.asarray(plain(data)).reshape(-1, 3).mean(0) / 255 for data in whole]
    np.testing.assert_allclose(yaml.safe_load(out.read_text())["model"]["image"]["mean"], np.mean(means, 0), atol=1e-6)
    assert f"{len(whole)} images as a model of 24 px sees them, of 7 samples" in out.read_text()


def plain(data):
    """The short side to 24 pixels, and the middle."""
    image = Image.open(io.BytesIO(data))
    width, height = (24 * side // min(image.size) for side in image.size)
    left, top = round((width - 24) / 2), round((height - 24) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 24, top + 24))


def test_peek_shows_every_image(tmp_path, capsys):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]

    def of(colour):
        out = io.BytesIO()
        Image.new("RGB", (300, 300), colour).save(out, "PNG")
        return out.getvalue()

    one = {"a.png": of(colours[0]), "b.png": of(colours[1]), "c.png": of(colours[2]), "txt": b"three"}
    urls = write(tmp_path / "in", [one, {**one, "b.png": b"broken"}])
    assert not run("peek", urls, tmp_path / "sheet.png", "--image-members", "a.png", "b.png", "c.png")
    said = capsys.readouterr().out
    assert "2 of 2 samples" in said
    assert "one of its images cannot be used" in said
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).reshape(-1, 3)
    seen = [int((sheet == np.array(colour)).all(1).sum()) for colour in colours]
    assert seen == [2 * 80 * 80, 80 * 80, 2 * 80 * 80]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (["a.jpg", "b.jpg"], "no usable sample"),
        (["json:fotos"], "--image-members=json:fotos: no sample has it"),
        (["front.jpg", "front.jpg"], "--image-members front.jpg front.jpg: images names members, each once"),
        (["front.jpg", "json:photos"], "json:photos is a list of members already"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, capsys, members, says):
    urls = write(tmp_path / "in", [product(0), product(1)])
    assert run("stats", urls, "--image-members", *members) == 2
    assert says in capsys.readouterr().err
