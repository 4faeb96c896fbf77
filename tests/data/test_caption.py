"""Captions of files, folders and shards on the command line, and beside the originals in new shards."""

import json
import tarfile

import numpy as np
import pytest
import torch
from mmclr.data_tools import caption
from mmclr.data_tools.commands.enrich import caption as recaption

import mmclr
from mmclr.config import check
from mmclr.data import columns
from mmclr.data.columns import Kind
from mmclr.errors import UserError
from mmclr.models.captioning.decoding import Decoding
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests.data.filled import fill, indices_of
from tests.data.made import pair, picture, write_shards, write_tar


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    """A folder with an untrained captioner, which says different things about different images."""
    torch.manual_seed(1)
    tree = {"preset": "icons", "image": {"layers": 1}, "text": {"layers": 1}, "captioner": {"layers": 1}}
    t = tokenizer
    made = TwoTower(with_tokenizer(check(ModelConfig, tree), t.vocab_size, t.bos_id, t.eos_id, t.pad_id))
    made.words().data.mul_(30)
    made.text_model.embeddings.position_embedding.weight.data.mul_(300)
    made.captioner.layers[0].cross_attn.out_proj.weight.data.mul_(30)
    made.vision_model.embeddings.patch_embedding.weight.data.mul_(10)
    folder = tmp_path_factory.mktemp("model")
    made.save(folder)
    tokenizer.save(folder)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def members(folder):
    out = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            out |= {m.name: archive.extractfile(m).read() for m in archive}
    return out


def test_files_folders_and_shards(model, tmp_path, capsys):
    (tmp_path / "album" / "more").mkdir(parents=True)
    for place, number in (("one.png", 1), ("album/b.png", 2), ("album/more/a.jpg", 3)):
        (tmp_path / place).write_bytes(picture(number, size=(30 + 20 * number, 40)))
    (tmp_path / "album" / "broken.jpg").write_bytes(b"no picture")
    shards = write_shards(tmp_path / "shards", [2, 1])
    out = tmp_path / "captions.jsonl"
    caption.main([str(model), str(tmp_path / "one.png"), str(tmp_path / "album"), shards, "--out", str(out)])
    found = lines(out)
    names = [line["image"].removeprefix(str(tmp_path)) for line in found]
    assert names == [
        "/one.png",
        "/album/b.png",
        "/album/broken.jpg",
        "/album/more/a.jpg",
        "/shards/00000.tar#000000",
        "/shards/00000.tar#000001",
        "/shards/00001.tar#000002",
    ]
    assert "not an image" in found[2]["error"]
    assert "7 images, 1 of them unreadable" in capsys.readouterr().err
    paths = [tmp_path / name[1:] for name in (names[0], names[1], names[3])]
    assert [found[i]["caption"] for i in (0, 1, 3)] == mmclr.load(model).caption(paths)
    assert len({line.get("caption") for line in found}) > 3
    caption.main([str(model), str(tmp_path / "one.png")])
    assert json.loads(capsys.readouterr().out)["caption"] == found[0]["caption"]


@pytest.mark.parametrize("how", [[], ["--top-p", "0.9", "--temperature", "3"], ["--beams", "3"]])
def test_a_stopped_command_goes_on_as_if_it_had_not_been(model, tmp_path, how):
    shards = write_shards(tmp_path / "shards", [11])
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    arguments = [str(model), shards, "--batch", "4", "--max-tokens", "5", *how]
    caption.main([*arguments, "--out", str(whole)])
    text = whole.read_text()
    cut = text.splitlines(keepends=True)
    part.write_text("".join(cut[:6]) + cut[6][:9])
    caption.main([*arguments, "--out", str(part)])
    assert part.read_text() == text
    part.write_text("".join(cut[:6]).replace('{"image": ', '{"picture": '))  # as version 0.1 called it
    caption.main([*arguments, "--out", str(part)])
    assert part.read_text().replace('{"picture": ', '{"image": ') == text
    with pytest.raises(UserError, match="has captions of other images"):
        caption.main([str(model), write_shards(tmp_path / "other", [3]), "--out", str(part)])


def test_captions_beside_the_originals(model, tmp_path, capsys):
    bad = {"jpg": b"no picture", "txt": b"broken"}
    samples = [("a", pair(1)), ("b", bad), ("c", {"png": picture(3), "txt": b"no json"}), ("d", pair(4))]
    write_tar(tmp_path / "in.tar", [(f"{key}.{ext}", data) for key, part in samples for ext, data in part.items()])
    fill(indices_of(str(tmp_path / "in.tar")), "score", Kind("float32"), np.arange(4))
    out = tmp_path / "out"
    recaption.main([str(tmp_path / "in.tar"), str(out), "--model", str(model), "--samples", "3", "--batch", "2"])
    said = capsys.readouterr().out
    assert "the column score (float32) is beside the new shards, too" in said
    followed = [columns.open_column(index, "score")[1].tolist() for index in indices_of(str(out / "*.tar"))]
    assert followed == [[0, 1, 2], [3]]
    assert "2 shards, 4 samples with json:generated" in said
    assert "1 sample without a caption: the image cannot be decoded" in said
    found, before = members(out), members(tmp_path)
    for name, data in before.items():
        if name.endswith(".json"):
            tree = json.loads(found[name])
            assert tree.pop("generated")
            assert tree == json.loads(data)
        else:
            assert found[name] == data
    assert found.keys() - before.keys() == {"c.json"}
    written = [json.loads(found[f"{key}.json"])["generated"] for key in "acd"]
    expected = mmclr.load(model)
    images = []
    for number, key in ((1, "a"), (3, "c"), (4, "d")):
        (tmp_path / f"{key}.png").write_bytes(picture(number))
        images.append(tmp_path / f"{key}.png")
    assert written == expected.caption(images)
    arguments = [str(tmp_path / "in.tar"), str(tmp_path / "x"), "--model", str(model), "--field", "title"]
    with pytest.raises(UserError, match="its json has 'title' already; choose another --field"):
        recaption.main(arguments)


def test_a_run_can_train_on_both(model, tmp_path, tokenizer):
    from mmclr.config import load
    from mmclr.data.stream.loader import DataConfig, Loader

    recaption.main([write_shards(tmp_path / "in", [6]), str(tmp_path / "out"), "--model", str(model)])
    tree = {"train": str(tmp_path / "out" / "*.tar"), "batch": 6, "workers": 0, "caption": "json:generated"}
    batch = next(iter(Loader(load(DataConfig, tree), tokenizer, 24, 0)))
    stored = {json.loads(data)["generated"] for name, data in members(tmp_path / "out").items() if "json" in name}
    read = {tokenizer.decode(row[:n].tolist()) for row, n in zip(batch.tokens, batch.lengths)}
    assert read == {tokenizer.decode(tokenizer.encode([text])[0]) for text in stored}


def test_faults_are_said_in_a_sentence(model, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in ((str(tmp_path / "empty"), "no images in this folder"), ("nowhere.jpg", "no such file")):
        with pytest.raises(UserError, match=message):
            caption.main([str(model), source])
    encoders = tmp_path / "encoders"
    TwoTower.load(model).encoders().save(encoders)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (encoders / name).write_bytes((model / name).read_bytes())
    (tmp_path / "one.png").write_bytes(picture(1))
    with pytest.raises(UserError, match="this model has no captioner"):
        caption.main([str(encoders), str(tmp_path / "one.png")])
    with pytest.raises(UserError, match="set one of the two"):
        caption.main([str(model), str(tmp_path / "one.png"), "--beams", "2", "--top-p", "0.5"])


def test_python_interface(model, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(1))
    found = mmclr.load(model)
    (short,), (whole,) = (found.caption(tmp_path / "one.png", Decoding(max_tokens=most)) for most in (2, 0))
    assert whole.startswith(short)
    assert len(short) < len(whole)
