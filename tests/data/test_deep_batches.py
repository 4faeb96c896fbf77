"""Deep images on their way from shards to batches, through tools and to an embedding."""

import io
import json

import numpy as np
import pytest
import torch
import yaml
from mmclr.data_tools.commands.convert import pack
from mmclr.data_tools.commands.inspect import peek, stats, verify
from PIL import Image

import mmclr
from mmclr.config import load
from mmclr.data.pixels.bands import Bands
from mmclr.data.pixels.choose import Square
from mmclr.data.samples.reader import read_all
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.report.images import to_image
from mmclr.train.run import RunConfig
from tests.data.deep import bands_tiff, npy, png16, values
from tests.data.made import RANDOM, rows, take, write_tar

CHANNELS, SAMPLES = 3, 24
RANGE = {"low": 0, "high": 4095}


def sample(number, kind):
    x = values(CHANNELS, size=(40, 30), seed=number)
    window = {"low": 10 * number, "high": 4000 - number}
    return {kind[0]: kind[1](x), "txt": f"image number {number}".encode(), "json": json.dumps(window).encode()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same images as .npy, TIFF, and PNG, in a shard each; and in one with some that are broken."""
    path = tmp_path_factory.mktemp("deep")
    kinds = {"npy": npy, "tif": bands_tiff, "png": png16}
    for kind in kinds.items():
        members = [(f"{n:04d}.{end}", data) for n in range(SAMPLES) for end, data in sample(n, kind).items()]
        write_tar(path / f"{kind[0]}.tar", members)
    bad = {
        "four": npy(values(4)), "nan": npy(np.full((3, 9, 9), np.nan)), "deep": npy(values(3)[None]),
        "object": npy(np.array([None]), allow_pickle=True), "float": npy(values(3).astype(np.float32)),
        "line": npy(np.arange(7)), "cut": npy(values(3))[:-1], "empty": b"",
    }  # fmt: skip
    both = [(f"{name}.{end}", part) for name, data in bad.items() for end, part in (("npy", data), ("txt", b"a"))]
    write_tar(path / "bad.tar", both + [("good.npy", npy(values(3))), ("good.txt", b"b")])
    return path


def loader(folder, tokenizer, kind="npy", channels=CHANNELS, rank=0, world=1, **settings):
    tree = {"train": str(folder / f"{kind}.tar"), "batch": 12, "workers": 0, "intensity": RANGE, **settings}
    return Loader(load(DataConfig, tree), tokenizer, Square(24, channels=channels), 1, rank, world)


@pytest.mark.parametrize("settings", [{}, {"views": 2, **RANDOM, "caption": "txt"}, {"cache": "decoded", "views": 1}])
def test_batches_are_the_same_whatever_the_file(folder, tokenizer, settings):
    first, *others = [take(loader(folder, tokenizer, kind, **settings), 3) for kind in ("npy", "tif", "png")]
    assert first[0].pixels.dtype == torch.float32
    assert first[0].pixels.shape == (12, 3, 24, 24)
    assert first[0].pixels.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= first[0].pixels.min() < first[0].pixels.max() <= 1
    for other in others:
        for a, b in zip(first, other):
            assert (a.pixels == b.pixels).all()
            assert a.views is None or (a.views == b.views).all()


def test_two_ranks_a_worker_and_a_cache_see_what_one_process_sees(folder, tokenizer):
    whole = take(loader(folder, tokenizer, views=1, **RANDOM | {"caption": "txt"}), 4)
    for settings in ({"cache": "decoded"}, {"workers": 1}):
        again = take(loader(folder, tokenizer, views=1, **RANDOM | {"caption": "txt"}, **settings), 4)
        assert [rows(batch) for batch in again] == [rows(batch) for batch in whole]
    for rank in range(2):
        part = take(loader(folder, tokenizer, rank=rank, world=2, views=1, **RANDOM | {"caption": "txt"}), 4)
        for a, b in zip(part, whole):
            assert (a.pixels == b.pixels[6 * rank : 6 * rank + 6]).all()
    resumed = loader(folder, tokenizer, views=1, **RANDOM | {"caption": "txt"})
    resumed.load_state_dict(loader(folder, tokenizer).state_dict() | {"position": 24})
    assert (take(resumed, 1)[0].pixels == whole[2].pixels).all()


def test_each_sample_may_say_its_range(folder, tokenizer):
    """By the formula, of images that are not resized."""
    told = Square(30, channels=3, intensity={"low": "json:low", "high": "json:high"})
    for found in read_all(str(folder / "tif.tar"), told, batch=7):
        for pixels, key in zip(found.pixels, found.keys):
            low, high = 10 * int(key), 4000 - int(key)
            wanted = np.clip((values(3, size=(40, 30), seed=int(key))[:, :, 5:35] - float(low)) / (high - low), 0, 1)
            assert np.abs(pixels.numpy() - wanted).max() < 1e-6
    batch = take(loader(folder, tokenizer, intensity=told.intensity), 1)[0]
    assert batch.real.all()


def test_what_cannot_be_used_is_counted(folder, tokenizer):
    made = loader(folder, tokenizer, "bad", batch=1, intensity=None, channels=5, max_faults=1.0, faults="skip")
    take(made, 9)
    assert made.ledger.counts == {"bad_array": 2, "bad_image": 7}  # with 5 channels none is good
    made = loader(folder, tokenizer, "bad", batch=1, max_faults=1.0, faults="skip")
    found = take(made, 9)
    told = {entry.key: str(entry) for entries in made.ledger.examples.values() for entry in entries}
    assert sum(int(batch.real.sum()) for batch in found) == 2  # good, and the floats, which have a range
    for key, why in {
        "four": "shape [4, 29, 37]", "nan": "243 of its 243 numbers are NaN", "deep": "4 dimensions",
        "object": "dtype object", "line": "1 dimensions", "cut": "1 bytes are missing", "empty": "the member is empty",
    }.items():  # fmt: skip
        assert why in told[key]
    ours = load(
        DataConfig, {"train": str(folder / "bad.tar"), "batch": 1, "workers": 0, "max_faults": 1, "faults": "skip"}
    )
    made = Loader(ours, tokenizer, Square(24, channels=3, intensity={"low": "json:low", "high": 1}), 1)
    take(made, 9)
    assert made.ledger.counts["no_range"] == 2


def test_members_of_several_kinds_are_told_apart(folder, tokenizer, tmp_path):
    """Of a deep image and a photo of it beside it the deep one is seen, and by a model of photographs the photo."""
    x, seen = values(3, size=(24, 24)), io.BytesIO()
    Image.new("RGB", (24, 24), (9, 9, 9)).save(seen, "JPEG")
    write_tar(tmp_path / "npy.tar", [("a.jpg", seen.getvalue()), ("a.npy", npy(x)), ("a.txt", b"a")])
    how = {"batch": 1, "augment": {"crop_scale": [1, 1], "crop_ratio": [1, 1]}}
    deep = take(loader(tmp_path, tokenizer, **how), 1)[0]
    assert np.allclose(deep.pixels[0], x / 4095, atol=1e-6)
    photo = take(loader(tmp_path, tokenizer, intensity=None, **how), 1)[0]
    assert photo.pixels.dtype == torch.uint8


def test_tools_are_told_the_bands(folder, tmp_path, capsys):
    how = ["--channels", "3", "--intensity", "{low: 0, high: 4095}"]
    assert verify.main([str(folder / "npy.tar"), *how]) == 0
    assert verify.main([str(folder / "bad.tar"), *how]) == 1
    said = capsys.readouterr().out
    assert "5 samples: the image cannot be decoded" in said
    assert "dtype object" in said
    peek.main([str(folder / "tif.tar"), str(tmp_path / "sheet.png"), *how])
    written = tmp_path / "bands.yaml"
    stats.main([str(folder / "png.tar"), *how, "--size", "30", "--write", str(written)])
    assert "PNG uint16 x 3 24" in capsys.readouterr().out
    tree = yaml.safe_load(written.read_text())
    x = np.stack([values(3, size=(40, 30), seed=n)[:, :, 5:35] for n in range(SAMPLES)]) / 4095
    assert np.allclose(tree["model"]["image"]["mean"], x.mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(tree["model"]["image"]["std"], x.std((0, 2, 3)), atol=1e-5)
    (tmp_path / "mine.yaml").write_text("base: bands.yaml\ndata: {train: x.tar}\nmodel: {preset: icons}\nsteps: 1\n")
    run = load(RunConfig, tmp_path / "mine.yaml").resolved()
    assert run.model.image.intensity == RANGE
    assert list(run.model.image.mean) == tree["model"]["image"]["mean"]
    for wrong, why in (
        ("{low: 1}", "one of the three"),
        ("[1]", "write it as"),
        ("{low: [1, 2], high: 3}", "2 numbers"),
    ):
        with pytest.raises(UserError, match=why):
            verify.main([str(folder / "npy.tar"), "--channels", "3", "--intensity", wrong])


def test_deep_images_are_packed_as_they_are(tmp_path, capsys):
    """TIFF, .npy and PNG of a folder or a table, with the window that each has in its json; a broken one is counted."""
    source, files = tmp_path / "scans", {}
    source.mkdir()
    for number, (kind, encode) in enumerate({"npy": npy, "tif": bands_tiff, "png": png16}.items()):
        files[kind] = encode(values(1, seed=number).astype(np.uint16))
        (source / f"{number}.{kind}").write_bytes(files[kind])
        (source / f"{number}.json").write_text(json.dumps({"caption": f"scan {number}", "low": number, "high": 99}))
    (source / "float.npy").write_bytes(npy(values(1).astype(np.float32)))  # training will say its range
    (source / "bad.npy").write_bytes(npy(values(2)))
    for name in ("float", "bad"):
        (source / f"{name}.txt").write_text(name)
    assert pack.main([str(source), str(tmp_path / "out"), "--channels", "1", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "4 samples" in said
    assert "shape [2, 29, 37]" in said
    shards = Shards(open_indices([str(tmp_path / "out" / "00000.tar")]), ("txt",), ("json",), images=Bands.members)
    found = [shards.read(number) for number in range(4)]
    for kind, sample_ in zip(files, found):
        assert sample_.members[kind] == files[kind]
    assert json.loads(found[1].members["json"])["low"] == 1
    (source / "t.csv").write_text("image,caption\n0.npy,zero\n1.tif,one\n")
    assert pack.main([str(source / "t.csv"), str(tmp_path / "table"), "--channels", "1", "--workers", "0"]) == 0
    for more in (["--short-side", "64"], ["--array", "{channels: 2, length: 3}"]):
        with pytest.raises((SystemExit, UserError)):
            pack.main([str(source), str(tmp_path / "other"), "--channels", "1", *more])
    assert pack.main([str(source), str(tmp_path / "photos"), "--workers", "0"]) == 0  # of photographs: no .npy
    assert "2 samples" in capsys.readouterr().out


def test_an_encoder_takes_files_and_arrays_of_its_kind(folder, tokenizer, tmp_path):
    """The same numbers give the same vector, from a file, an array, a shard, with the range in a file beside it."""
    tree = {"image": {"size": 24, "patch": 8, "width": 32, "layers": 1, "heads": 2, "mlp": 32, "channels": 3},
            "text": {"width": 32, "layers": 1, "heads": 2, "mlp": 32, "context": 16}, "embed": 16}  # fmt: skip
    ids = (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tree["image"]["intensity"] = {"low": "json:low", "high": "json:high"}
    model = TwoTower(with_tokenizer(load(ModelConfig, tree), *ids))
    model.save(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    encoder = mmclr.load(tmp_path / "model", device="cpu")
    (tmp_path / "a.json").write_text(json.dumps(RANGE))
    x = values(3, size=(40, 30))
    for name, data in (("a.npy", npy(x)), ("a.tif", bands_tiff(x)), ("a.png", png16(x))):
        (tmp_path / name).write_bytes(data)
    found = encoder.encode_image([tmp_path / f"a.{kind}" for kind in ("npy", "tif", "png")])
    assert np.abs(found - found[0]).max() < 1e-6
    with pytest.raises(UserError, match=r"image 0: json:low is missing"):
        encoder.encode_image([x])
    tree["image"]["intensity"] = RANGE
    TwoTower(with_tokenizer(load(ModelConfig, tree), *ids)).save(tmp_path / "model")
    encoder = mmclr.load(tmp_path / "model", device="cpu")
    assert (
        np.abs(encoder.encode_image([x, np.moveaxis(x, 0, -1)]) - encoder.encode_image(tmp_path / "a.npy")).max() < 1e-6
    )
    read = next(iter(read_all(str(folder / "npy.tar"), encoder.model.config.image, batch=5)))
    with torch.no_grad():
        rows_ = encoder.model.encode_image(encoder.model.normalise(read.pixels))
    arrays = [values(3, size=(40, 30), seed=n) for n in range(5)]
    assert np.abs(encoder.encode_image(arrays) - rows_.numpy()).max() < 1e-5
    with pytest.raises(UserError, match="image 0: 4 dimensions"):
        encoder.encode_image([x[None]])


@pytest.mark.parametrize(
    "data", [npy(values(5)), bands_tiff(values(5)), npy(values(1).astype(float)), png16(values(1))]
)
def test_a_report_shows_deep_images(data):
    shown = to_image(data)
    assert (shown.mode, shown.size) == ("RGB", (37, 29))
    assert np.asarray(shown).std() > 20
