"""One bad value costs one sample, and the same with the same reason, whoever reads it: training, evaluations, tools."""

import json
import tarfile

import pytest
from mmclr.data_tools.commands.convert import pack, reshard
from mmclr.data_tools.commands.enrich import tokenizer as tokenizers
from mmclr.data_tools.commands.inspect import stats
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import zero_shot
from mmclr.eval.suites.retrieval import compositional, retrieval

from mmclr.config import load
from mmclr.data.pixels.choose import choose
from mmclr.data.samples.images import Images
from mmclr.data.samples.reader import read_all
from mmclr.data.samples.skipped import Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import open_index
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.errors import UserError

SAMPLES, BAD = 12, 5
TITLES = {  # of the bad sample, as JSON
    "half a character": rb'"a smile \ud83d"',
    "null": b"null",
    "an object": b'{"a": 1}',
    "a list of objects": b"[{}, {}]",
    "true": b"true",
    "not finite": b"NaN",
    "digits": b"9" * 5000,
    "brackets": b"[" * 100_000 + b"]" * 100_000,
    "spaces": b'"  "',
    "NUL": rb'"a\u0000b"',
    "Latin-1": b'"caf\xe9"',
    "no end": b'"',
    "an empty list": b"[]",
    "a megabyte": b'"' + b"w " * (1 << 20) + b'"',
}
TEXTS = {
    "Latin-1": b"caf\xe9",
    "UTF-16": "a cat".encode("utf-16-le"),
    "half a character": b"\xed\xa0\xbd",
    "spaces": b" \n",
    "NUL": b"a\0b",
    "a megabyte": b"w " * (1 << 20),
}
LABELS = {"beyond 64 bits": b"1" + b"0" * 30, "not finite": b"1e999", "an object": b"{}", "nothing": b"null"}
CASES = [("json:title", "json", b'{"title": ' + v + b"}", n) for n, v in TITLES.items()] + [
    ("txt", "txt", v, n) for n, v in TEXTS.items()
]


def members(toy, i):
    facts = {"title": f"a {toy.COLOURS[i % 3]} thing", "class": i % 3}
    return {"png": toy.picture(i), "txt": f"a thing {i}".encode(), "json": json.dumps(facts).encode()}


def shard(toy, path, changes):
    """A shard in which samples have other members: {number: {extension: bytes}}."""
    return str(toy.write_tar(path, {f"s{i:02d}": {**members(toy, i), **changes.get(i, {})} for i in range(SAMPLES)}))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"image number {n}" for n in range(100)], size=600, context=16)


def trained(path, tokenizer, **settings):
    """How many samples training uses in one epoch, and why it does not use the others."""
    config = load(DataConfig, {"train": path, "batch": SAMPLES, "workers": 0, "faults": "skip", **settings})
    loader = Loader(config, tokenizer, 24, seed=0)
    batch = next(iter(loader))
    return int((batch.weights > 0).sum()), {**loader.ledger.excluded, **loader.ledger.counts}


@pytest.mark.parametrize(("field", "extension", "value", "name"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_bad_caption_is_one_sample_for_all(toy, tokenizer, tmp_path, field, extension, value, name):
    path = shard(toy, tmp_path / "a.tar", {BAD: {extension: value}})
    used, why = trained(path, tokenizer, caption=field)
    assert (used, sum(why.values())) == (SAMPLES - 1, 1)
    keys = [f"s{i:02d}" for i in range(SAMPLES) if i != BAD]
    reader = read_all(path, 16, caption=field)
    assert [key for rows in reader for key in rows.keys] == keys
    data = ordinary(path, caption=field)
    assert (list(data.keys), dict(data.skipped)) == (keys, why) == (keys, reader.ledger.counts)
    ledger = Ledger()
    assert len(list(tokenizers.captions(path, field, ledger))) == SAMPLES - 1
    assert ledger.counts == why
    seen = stats.look([open_index(path)], field, tokenizer, 0, choose(16), Images(""))
    said = "\n".join(stats.lines(seen))
    assert said.count("left out") == 1
    assert f"a.tar, sample {BAD} (s05)" in said
    reshard.main([path, str(tmp_path / "out")])
    with tarfile.open(path) as before, tarfile.open(tmp_path / "out" / "00000.tar") as after:
        assert [(m.name, before.extractfile(m).read()) for m in before] == [
            (m.name, after.extractfile(m).read()) for m in after
        ]


@pytest.mark.parametrize("value", LABELS.values(), ids=LABELS)
def test_a_bad_label_is_one_sample_for_all(toy, tokenizer, tmp_path, value):
    path = shard(toy, tmp_path / "a.tar", {BAD: {"json": b'{"title": "x", "class": ' + value + b"}"}})
    data = ordinary(path, caption="", label="json:class")
    assert (len(data), list(data.classnames)) == (SAMPLES - 1, ["0", "1", "2"])
    if value == b"null":  # no class is none in training, where a sample may go without
        assert dict(data.skipped) == {"no_label": 1}
    else:
        assert (SAMPLES - 1, dict(data.skipped)) == trained(path, tokenizer, label="json:class")


def test_the_other_captions_of_a_sample_stay(toy, tokenizer, tmp_path):
    path = shard(toy, tmp_path / "a.tar", {BAD: {"json": rb'{"title": ["one", null, 5, "\ud83d", {}, "  "]}'}})
    data = ordinary(path, caption="json:title")
    assert list(data.captions[BAD]) == ["one", "5"]
    assert dict(data.skipped) == {"lost_caption": 2}
    assert trained(path, tokenizer, caption="json:title") == (SAMPLES, {"lost_caption": 2})


def test_all_that_is_bad_in_one_evaluation(toy, model_folder, tmp_path, capsys):
    """The commands say what was left out, and the result has it by reason and by place."""
    changes = {
        1: {"txt": b"caf\xe9"},
        2: {"png": b"no picture"},
        3: {"txt": b" "},
        4: {"json": b"{"},
        5: {"txt": b"w" * 20_000},
        6: {"json": b"[" * 99_999},
    }
    path = shard(toy, tmp_path / "a.tar", changes)
    out = tmp_path / "r.json"
    retrieval.main([str(model_folder), "--data", path, "--cache", "none", "--out", str(out)])
    tree = json.loads(out.read_text())
    assert tree["skipped"] == {"bad_text": 1, "bad_image": 1, "empty_caption": 1, "cut_caption": 1}
    assert tree["sizes"] == {"images": SAMPLES - 3, "captions": SAMPLES - 3}
    assert any("sample 1 (s01)" in line and "not UTF-8 at byte 3" in line for line in tree["faults"])
    said = capsys.readouterr().out
    assert "skipped: 1 samples (the image cannot be decoded)" in said
    assert "kept: 1 samples" in said
    zero_shot.main([str(model_folder), "--data", path, "--label", "json:class", "--cache", "none", "--out", str(out)])
    assert json.loads(out.read_text())["skipped"] == {"bad_text": 2, "bad_image": 1}


def test_too_many_are_an_error(toy, tmp_path):
    """As in training: more than one in a hundred, judged from the thousandth sample on."""
    samples = {f"s{i:02d}": {**members(toy, i), **({"txt": b"\xff"} if i % 2 else {})} for i in range(24)}
    path = str(toy.write_tar(tmp_path / "a.tar", samples))
    with pytest.raises(UserError, match=r"12 of 24 samples could not be used, more than --max_faults 0.01:\n.*\n.*s01"):
        open_set(path)
    assert len(open_set(path, max_faults=0.02)) == 12
    assert len(open_set(path, label="json:class")) == 24  # captions are not read then


@pytest.mark.parametrize("title", TITLES.values(), ids=TITLES)
def test_pack_leaves_out_the_bad_row(toy, tmp_path, capsys, title):
    (tmp_path / "a.png").write_bytes(toy.picture(1))
    lines = [b'{"image": "a.png", "caption": ' + t + b"}" for t in (b'"one"', title, b'"three"', b"4")]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    assert pack.main([str(tmp_path / "t.jsonl"), str(tmp_path / "out"), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "1 shards, 3 samples" in said
    assert said.count("1 sample left out") == said.count("t.jsonl:2") == 1
    data = ordinary(str(tmp_path / "out" / "*.tar"))
    assert [texts[0] for texts in data.captions] == ["one", "three", "4"]


def test_a_picture_that_is_missing_costs_its_instance(toy, model_folder, tmp_path):
    from mmclr.eval.embed.embedder import Embedder

    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(toy.picture(i) if i else b"no picture")
    entries = [{"image": f"{i}.png", "captions": [f"a {i}", "b"]} for i in range(5)] + [["no", "object"]]
    (tmp_path / "x.json").write_text(json.dumps(entries))
    args = compositional.suite.parser().parse_args([str(model_folder), "--data", str(tmp_path / "x.json")])
    result = compositional.suite.run(Embedder.load(model_folder), compositional.suite.open(args), args)
    assert result.sizes["instances"] == 3
    assert result.skipped == {"bad_row": 1, "missing_file": 1, "bad_image": 1}
    assert "2 instances are left out: an image of theirs cannot be used" in result.notes
