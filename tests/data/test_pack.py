"""mmclr data pack: shards out of tables and folders, the same to the byte after an interruption."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from mmclr.data_tools.commands.convert.pack import Encoder, pack
from mmclr.data_tools.lib.inputs import read_records
from mmclr.data_tools.lib.shard_writer import ShardWriter
from PIL import Image

from mmclr import cli
from mmclr.data.samples.reader import read_all
from mmclr.errors import UserError
from tests.data.made import contents, picture, write_tar


def pictures(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        (folder / f"{n}.png").write_bytes(picture(n))


def rows(tmp_path):
    pictures(tmp_path / "images", range(7))
    return [{"image": f"images/{n}.png", "caption": f"image number {n}", "number": n} for n in range(7)]


def write_table(kind, tmp_path):
    table = rows(tmp_path)
    path = tmp_path / f"table.{kind}"
    if kind in ("csv", "tsv"):
        with open(path, "w", newline="") as file:
            out = csv.DictWriter(file, list(table[0]), delimiter="," if kind == "csv" else "\t")
            out.writeheader()
            out.writerows(table)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif kind == "parquet":
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        bytes_ = [{**row, "image": (tmp_path / row["image"]).read_bytes()} for row in table]
        parquet.write_table(arrow.Table.from_pylist(bytes_), path)
    elif kind == "dataset":
        import pyarrow as arrow

        path.mkdir()
        bytes_ = [{**row, "image": {"bytes": (tmp_path / row["image"]).read_bytes(), "path": None}} for row in table]
        for part, name in ((bytes_[:4], "a.arrow"), (bytes_[4:], "b.arrow")):
            made = arrow.Table.from_pylist(part)
            with arrow.OSFile(str(path / name), "wb") as file, arrow.ipc.new_stream(file, made.schema) as out:
                out.write_table(made)
        (path / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "a.arrow"}, {"filename": "b.arrow"}]})
        )
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "dataset"])
def test_pack_tables(kind, tmp_path, capsys):
    path = write_table(kind, tmp_path)
    assert cli.main(["data", "pack", str(path), str(tmp_path / "out"), "--samples", "3", "--workers", "0"]) == 0
    assert "3 shards, 7 samples" in capsys.readouterr().out
    got = list(read_all(str(tmp_path / "out" / "*.tar"), 16, caption="txt"))[0]
    assert got.captions == [[f"image number {n}"] for n in range(7)]
    assert [int(meta["number"]) for meta in got.metadata] == list(range(7))
    stored = [data for name, data in contents(tmp_path / "out") if name.endswith(".png")]
    assert stored == [picture(n) for n in range(7)]


def test_pack_folders(tmp_path, capsys):
    """img2dataset's files; and a folder per caption."""
    pictures(tmp_path / "files" / "00000", range(3))
    for n in range(3):
        (tmp_path / "files" / "00000" / f"{n}.txt").write_text(f"an image of {n}")
        (tmp_path / "files" / "00000" / f"{n}.json").write_text(json.dumps({"url": f"http://x/{n}"}))
    cli.main(["data", "pack", str(tmp_path / "files"), str(tmp_path / "a"), "--workers", "2"])
    got = list(read_all(str(tmp_path / "a" / "*.tar"), 16))[0]
    assert got.captions == [[f"an image of {n}"] for n in range(3)]
    assert got.metadata[1] == {"path": "00000/1.png", "url": "http://x/1"}
    pictures(tmp_path / "named" / "red_fox", range(2))
    (tmp_path / "named" / "lonely.png").write_bytes(picture(9))
    (tmp_path / "named" / "red_fox" / "broken.jpg").write_bytes(b"no picture")
    cli.main(["data", "pack", str(tmp_path / "named"), str(tmp_path / "b"), "--workers", "0"])
    assert list(read_all(str(tmp_path / "b" / "*.tar"), 16))[0].captions == [["red fox"]] * 2
    out = capsys.readouterr()
    assert "1 sample left out: the sample has none of the caption fields" in out.out
    assert "1 sample left out: the image cannot be decoded" in out.out
    assert "broken.jpg" in out.out


def test_pack_shrinks(tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)).save(big / "a.jpg")
    (big / "a.txt").write_text("noise")
    (big / "b.png").write_bytes(picture(1))
    (big / "b.txt").write_text("small")
    cli.main(["data", "pack", str(big), str(tmp_path / "out"), "--short-side", "100", "--workers", "0"])
    (first, data), *_, (second, small) = [
        (n, d) for n, d in contents(tmp_path / "out") if "txt" not in n and "json" not in n
    ]
    Image.open(io.BytesIO(data)).load()
    assert Image.open(io.BytesIO(data)).size == (167, 100)
    assert small == picture(1)


def test_pack_goes_on_where_it_stopped(tmp_path):
    path = write_table("jsonl", tmp_path)

    def writer(name, samples=2):
        return ShardWriter(tmp_path / name, {"samples": samples}, samples, 1 << 30)

    def records():
        return read_records(str(path), ("image", "caption"))

    class Interrupted(Exception):
        pass

    def breaking(record):
        if record.fields["number"] == 5:
            raise Interrupted
        return Encoder()(record)

    pack(records(), writer("whole"), Encoder())
    with pytest.raises(Interrupted):
        pack(records(), writer("broken"), breaking)
    assert writer("broken").done == 4
    assert sorted(p.name for p in (tmp_path / "broken").glob("*.tar")) == ["00000.tar", "00001.tar"]
    state = pack(records(), writer("broken"), Encoder())
    assert [shard["samples"] for shard in state["shards"]] == [2, 2, 2, 1]
    for name in ("00000.tar", "00001.tar", "00002.tar", "00003.tar", "packed.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    assert writer("broken").finished
    with pytest.raises(UserError, match="other settings"):
        writer("broken", samples=3)
    write_tar(tmp_path / "00009.tar", [])
    with pytest.raises(UserError, match="was not written by this command"):
        ShardWriter(tmp_path, {}, 2, 1 << 30)


def test_pack_complains(tmp_path):
    path = write_table("csv", tmp_path)
    for source, columns, words in (
        (path, ("photo", "caption"), "no column 'photo'"),
        (path, ("image", "capton"), "did you mean caption"),
        (tmp_path / "none.csv", ("image", "caption"), "no such file or folder"),
        (tmp_path / "images" / "0.png", ("image", "caption"), "is asked for, not .png"),
    ):
        with pytest.raises(UserError, match=words):
            list(read_records(str(source), columns))


def test_ustar_and_sizes(tmp_path):
    """No PAX headers (half of what webdataset writes), and shards of about the asked size."""
    path = write_table("jsonl", tmp_path)
    pack(read_records(str(path), ("image", "caption")), ShardWriter(tmp_path / "out", {}, 100, 12_000), Encoder())
    sizes = [p.stat().st_size for p in sorted((tmp_path / "out").glob("*.tar"))]
    assert len(sizes) > 1
    assert max(sizes) < 25_000
    raw = (tmp_path / "out" / "00000.tar").read_bytes()
    with tarfile.open(tmp_path / "out" / "00000.tar") as archive:
        assert {raw[member.offset + 156 : member.offset + 157] for member in archive} == {b"0"}
