"""The commands that write shards and look into them."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from mmclr import cli
from mmclr.data.shards.index import open_index
from mmclr.data.shards.subset import contains, parse_uids, read_subset, write_subset
from mmclr.errors import UserError
from tests.data.made import contents, pair, picture, write_shards, write_tar


def test_reshard_keeps_everything(tmp_path):
    write_shards(tmp_path / "in", [5, 4, 6])
    shards = str(tmp_path / "in" / "*.tar")
    cli.main(["data", "reshard", shards, str(tmp_path / "out"), "--samples", "4"])
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4
    cli.main(["data", "reshard", shards, str(tmp_path / "mixed"), "--samples", "4", "--shuffle", "3"])
    assert contents(tmp_path / "mixed") != contents(tmp_path / "in")
    assert sorted(contents(tmp_path / "mixed")) == sorted(contents(tmp_path / "in"))


UIDS = [f"{n * 7919:032x}" for n in range(1, 21)]


def pool(folder):
    members = []
    for n, uid in enumerate(UIDS):
        made = {**pair(n), "json": json.dumps({"uid": uid}).encode()}
        members += [(f"{n:06d}.{extension}", data) for extension, data in made.items()]
    folder.mkdir()
    return str(write_tar(folder / "0.tar", members))


def test_subset_files(tmp_path):
    write_subset(tmp_path / "some.npy", [UIDS[7], UIDS[2], UIDS[7]])
    some = read_subset(tmp_path / "some.npy")
    assert some.dtype == np.dtype("u8,u8")  # DataComp's: two halves
    assert [f"{int(a):016x}{int(b):016x}" for a, b in some] == [UIDS[2], UIDS[7]]
    some.tofile(tmp_path / "some.bin")
    assert (read_subset(tmp_path / "some.bin") == some).all()
    assert contains(some, parse_uids(UIDS)).nonzero()[0].tolist() == [2, 7]
    np.save(tmp_path / "wrong.npy", np.zeros(3))
    with pytest.raises(UserError, match="u8,u8"):
        read_subset(tmp_path / "wrong.npy")
    with pytest.raises(UserError, match="not a uid"):
        parse_uids(["123"])


def test_subset_selects_samples(make_loader, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shard = pool(tmp_path / "pool")
    write_subset(tmp_path / "some.npy", [UIDS[n] for n in (3, 1, 18, 6)] + ["f" * 32])
    loader = make_loader(train=shard, subset=str(tmp_path / "some.npy"), batch=4)
    assert loader.samples == 4
    assert loader.ledger.excluded == {"not_in_subset": 16}
    assert sorted(next(iter(loader)).keys) == ["000001", "000003", "000006", "000018"]
    assert make_loader(train=shard, subset=str(tmp_path / "some.npy"), batch=4).samples == 4  # uids from the cache
    cli.main(["data", "reshard", shard, str(tmp_path / "out"), "--subset", str(tmp_path / "some.npy")])
    assert open_index(str(tmp_path / "out" / "00000.tar")).keys() == ["000001", "000003", "000006", "000018"]
    assert "1 shards, 4 samples" in capsys.readouterr().out


def test_index_verify_stats(tmp_path, capsys):
    write_shards(tmp_path / "good", [5, 4])
    good = str(tmp_path / "good" / "*.tar")
    assert cli.main(["data", "index", good]) == 0
    assert "2 shards, 9 samples" in capsys.readouterr().out
    assert cli.main(["data", "verify", good, "--workers", "0"]) == 0
    assert "all of them can be used" in capsys.readouterr().out
    assert not cli.main(["data", "stats", good])
    out = capsys.readouterr().out
    assert "formats: PNG 9" in out
    assert "width, px: 40 to 40" in out
    assert "words of a caption: 3 to 3" in out


def test_reports_for_programs(tmp_path, capsys):
    """One JSON object with the numbers that the lines have."""
    write_shards(tmp_path / "good", [5, 4])
    good = str(tmp_path / "good" / "*.tar")
    bytes_ = sum(path.stat().st_size for path in (tmp_path / "good").glob("*.tar"))
    known = {"shards": 2, "samples": 9, "bytes": bytes_, "damaged": []}

    def told(*command):
        assert cli.main(["data", *command, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = told("index", good)
    assert known.items() <= found.items()
    assert sum(found["members"].values()) == 9
    found = told("stats", good)
    assert known.items() <= found.items()
    seen = found["looked_into"]
    assert (seen["looked_into"], seen["formats"], seen["left_out"]) == (9, {"PNG": 9}, {})
    assert seen["numbers"]["words of a caption"] == {"mean": 3.0, "percentiles": [3.0] * 5}
    sizes = [len(data) for name, data in contents(tmp_path / "good") if name.endswith(".png")]
    assert seen["numbers"]["bytes of an image"]["mean"] == pytest.approx(np.mean(sizes))
    found = told("bench", good, "size=24", "seconds=0.1", "batch=4", "workers=0")
    assert set(found["samples_per_second"]) == {"read", "decode", "crop", "caption", "loader"}
    assert all(rate > 0 for rate in found["samples_per_second"].values())


def test_verify_lists_all(tmp_path, capsys):
    members = [(f"{n}.{e}", data) for n in range(12) for e, data in pair(n).items()]
    members[3] = (members[3][0], b"broken")
    members[7] = (members[7][0], b"")
    members[12] = (members[12][0], picture(0))
    del members[30:36]
    members = [m for m in members if m[0] not in [f"{n}.txt" for n in (5, 6, 7, 8, 9)]] + members[:3]
    path = write_tar(tmp_path / "a.tar", members)
    os.truncate(path, sum(512 + -(-len(data) // 512) * 512 for _, data in members))
    assert cli.main(["data", "verify", str(path), "--json", str(tmp_path / "list"), "--workers", "0"]) == 1
    out = capsys.readouterr().out
    assert "truncated" in out
    assert "1 samples: the image cannot be decoded" in out
    assert "1 samples: the caption is empty" in out
    assert "5 samples: the sample has none of the caption fields" in out
    assert "1 samples have a key that was there before" in out
    assert "2 images were there before" in out
    listed = [json.loads(line) for line in (tmp_path / "list").read_text().splitlines()]
    assert sorted(entry["key"] for entry in listed if entry["reason"] == "no_caption") == ["5", "6", "7", "8", "9"]


def test_peek(tmp_path, capsys):
    write_shards(tmp_path / "in", [9])
    shards = str(tmp_path / "in" / "*.tar")
    cli.main(["data", "peek", shards, str(tmp_path / "sheet.png"), "--samples", "6"])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 6 * 168 + 8
    cli.main(["data", "peek", shards, str(tmp_path / "sheet.html")])
    text = (tmp_path / "sheet.html").read_text()
    assert all(f"image number {n}" in text for n in range(9))
    assert text.count("data:image/png;base64,") == 9
    assert cli.main(["data", "peek", shards, str(tmp_path / "sheet.txt")]) == 2
    assert "name a .png or .html file" in capsys.readouterr().err


def test_bench(shards, capsys):
    cli.main(["data", "bench", shards, "size=24", "seconds=0.2", "batch=8", "workers=0", "rate=1e9"])
    out = capsys.readouterr().out
    assert "samples/s with 0 workers" in out
    assert "is not enough" in out
