"""mmclr data columns: lists, exports to Parquet and imports tables by key, or by shard and row."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmclr.data_tools.commands.convert import reshard
from mmclr.data_tools.commands.enrich import columns as tool

from mmclr.cli import main
from mmclr.data import columns
from mmclr.data.columns import Columns, Kind
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError
from tests.data.made import pair, write_shards, write_tar


@pytest.fixture
def urls(tmp_path):
    return write_shards(tmp_path / "shards", [3, 2])


def indices_of(urls):
    return open_indices(expand(urls))


def values(urls, name):
    parts = [Shards(indices_of(urls))]
    return Columns(parts).values(name, range(len(parts[0])))


def table(path, rows):
    """Write rows, the first of which are names, as what the ending says."""
    names, *rest = rows
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in rest))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[n] for row in rest] for n, name in enumerate(names)}), path)
    else:
        with open(path, "w", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


def fill(urls, name, kind, array):
    begin = 0
    for index in indices_of(urls):
        with columns.write(index, name, Kind(kind)) as column:
            column.put(np.arange(len(index)), array[begin : begin + len(index)])
        begin += len(index)


ROWS = [("file", "x"), ("000003", 0.25), ("000000", 7.5), ("nobody", 1.0), ("000004", None)]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_column_of_any_table_is_joined_by_key(urls, tmp_path, ending, capsys):
    path = table(tmp_path / f"t.{ending}", ROWS)
    given = ["import", urls, str(path), "--key", "file", "--column", "x", "--json"]
    assert tool.main([*given, "--dry-run"]) == 0
    assert not any(columns.listing(index) for index in indices_of(urls))
    assert tool.main(given) == 0
    dry, done = (json.loads(part) for part in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0"))
    assert {**dry, "dry_run": False} == done
    assert (done["kind"], done["matched"], done["samples"], done["unmatched"]) == ("float64", 2, 5, 1)
    np.testing.assert_array_equal(values(urls, "x"), [7.5, np.nan, np.nan, 0.25, np.nan])


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["1", "2"], "int64", [1, 2]),
        (["-1", "2"], "float64", [-1.0, 2.0]),  # of integers, -1 is missing
        (["007", "8"], "string", ["007", "8"]),
        (["1e3", "2"], "float64", [1000.0, 2.0]),
        (["a", "2"], "string", ["a", "2"]),
    ],
)
def test_cells_of_a_csv_become_numbers_where_nothing_is_lost(urls, tmp_path, cells, kind, expected):
    path = table(tmp_path / "t.csv", [("key", "x"), *zip(["000000", "000001"], cells)])
    tool.main(["import", urls, str(path), "--column", "x"])
    assert str(Columns([Shards(indices_of(urls))]).column("x").kind) == kind
    assert values(urls, "x")[:2].tolist() == expected


def test_vectors_and_kinds_that_are_asked_for(urls, tmp_path):
    path = table(tmp_path / "t.jsonl", [("key", "x"), ("000000", [1, 2.5]), ("000004", [3, 4])])
    tool.main(["import", urls, str(path), "--column", "x"])
    tool.main(["import", urls, str(path), "--column", "x", "--name", "half", "--kind", "float16[2]"])
    for name, dtype in (("x", np.float32), ("half", np.float16)):
        assert values(urls, name).dtype == dtype
        assert values(urls, name)[[0, 4]].tolist() == [[1, 2.5], [3, 4]]
        assert np.isnan(values(urls, name)[1:4]).all()


def test_what_is_exported_comes_back_the_same(urls, tmp_path):
    """With keys that two shards share: rows are told apart by shard and row."""
    write_tar(tmp_path / "shards" / "9.tar", [(f"000000.{e}", d) for e, d in pair(1).items()])
    rng = np.random.default_rng(0)
    wanted = {
        "i": np.array([3, -1, 0, 2**40, 5, 6]),
        "f": np.array([0.5, np.nan, -1e9, 3, 4, 5]),
        "s": np.array(["a", "", "é,\n", "d", "e", "f"], object),
        "v": rng.normal(size=(6, 3)).astype(np.float32),
        "h": rng.normal(size=(6, 2)).astype(np.float16),
    }
    wanted["v"][2] = np.nan
    kinds = dict(zip(wanted, (Kind("int64"), Kind("float64"), Kind("string"), Kind("float32", 3), Kind("float16", 2))))
    indices, begin = indices_of(urls), 0
    for index in indices:
        for name, array in wanted.items():
            with columns.write(index, name, kinds[name]) as column:
                column.put(np.arange(len(index)), array[begin : begin + len(index)])
        begin += len(index)
    out = tmp_path / "out.parquet"
    assert tool.main(["export", urls, *wanted, "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()
    assert tool.main(["export", urls, *wanted, "--out", str(out)]) == 0
    found = pq.read_table(out)
    assert found["shard"].to_pylist() == ["00000.tar"] * 3 + ["00001.tar"] * 2 + ["9.tar"]
    assert found["row"].to_pylist() == [0, 1, 2, 0, 1, 0]
    assert found["key"].to_pylist() == ["000000", "000001", "000002", "000003", "000004", "000000"]
    assert found["i"].null_count == found["f"].null_count == found["s"].null_count == found["v"].null_count == 1
    for name in wanted:
        more = ["--kind", str(kinds[name])]
        tool.main(["import", urls, str(out), "--column", name, "--name", f"{name}2", *more])
        assert values(urls, f"{name}2").dtype == values(urls, name).dtype
        np.testing.assert_array_equal(values(urls, f"{name}2"), wanted[name])


def test_what_cannot_be_joined_is_told(urls, tmp_path):
    def refused(rows, said, *more, name="t.jsonl"):
        path = table(tmp_path / name, rows)
        with pytest.raises(UserError, match=said):
            tool.main(["import", urls, str(path), "--column", "x", *more])
        assert not any(columns.listing(index) for index in indices_of(urls))

    refused(
        [("key", "x"), ("000000", 1), ("000000", 2)], "row 2: the key '000000' was there before, with another value"
    )
    refused([("key", "x"), ("b", 1)], "none of its 1 rows has the key of a sample")
    refused([("key", "x"), ("000000", 1), ("000001", "a")], "not all numbers, all texts, or all lists")
    refused([("key", "x"), ("000000", [1]), ("000001", [1, 2])], "not all numbers, all texts, or all lists")
    refused([("key", "x"), ("000000", None)], "has no value that belongs to a key")
    refused([("key", "x"), ("000000", 0.5)], "'0.5', which int64 does not hold", "--kind", "int64")
    refused([("key", "x"), ("000000", 300)], "does not fit into int8; choose another --kind", "--kind", "int8")
    refused([("key", "x"), ("000000", 1 << 63)], "choose another --kind", "--kind", "int64")
    refused([("key", "x"), ("000000", 1)], "--kind 'int7' is no kind of value", "--kind", "int7")
    refused([("key", "x"), ("000000", 1)], "no column 'file'", "--key", "file", name="t.csv")
    write_tar(tmp_path / "shards" / "9.tar", [(f"000000.{e}", d) for e, d in pair(1).items()])
    refused([("key", "x"), ("000000", 1)], "the key '000000' is of a sample of .*00000.tar and of one of .*9.tar")
    refused([("shard", "row", "key", "x"), ("00000.tar", 0, "other", 1)], "row 0 of 00000.tar is 'other' in the table")


def test_columns_follow_samples_into_other_shards(urls, tmp_path):
    """Exported from the old shards, imported beside the new ones: by key, although the table has shard and row."""
    reshard.main([urls, str(tmp_path / "new"), "--samples", "2", "--shuffle", "3"])
    fill(urls, "x", "float64", np.arange(5) + 0.5)
    tool.main(["export", urls, "x", "--out", str(tmp_path / "x.parquet")])
    new = str(tmp_path / "new" / "*.tar")
    tool.main(["import", new, str(tmp_path / "x.parquet"), "--column", "x"])
    keys = [key for index in indices_of(new) for key in index.keys()]  # noqa: SIM118
    assert values(new, "x").tolist() == [int(key) + 0.5 for key in keys]
    assert sorted(keys) != keys


def test_rows_that_are_broken_are_counted(urls, tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"key": "000000", "x": 1}\n{"key": \n{"key": null, "x": 3}\n')
    tool.main(["import", urls, str(path), "--column", "x", "--json"])
    assert json.loads(capsys.readouterr().out)["faults"] == {"bad_text": 1, "no_key": 1}


def test_an_imported_column_comes_with_the_batch(urls, tmp_path, make_loader):
    """From a table to what objectives ask for: numbers, and NaN where the table says nothing."""
    path = table(tmp_path / "ages.csv", [("key", "age"), *((f"{n:06d}", n + 20) for n in range(4))])
    tool.main(["import", urls, str(path), "--column", "age"])
    batch = next(iter(make_loader(train=urls, batch=5, fields={"target": "column:age"})))
    found = dict(zip(map(int, batch.keys), batch.fields["target"].tolist()))
    assert {n: found[n] for n in range(4)} == {n: n + 20.0 for n in range(4)}
    assert np.isnan(found[4])


def test_listing(urls, capsys):
    assert main(["data", "columns", "list", urls]) == 0
    assert "no columns beside these 2 shards" in capsys.readouterr().out
    indices = indices_of(urls)
    for index in indices:
        with columns.write(index, "x", Kind("float16", 4), {"model": "m"}):
            pass
    assert main(["data", "columns", "list", urls, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"] == {"x": {"shards": 2, "kinds": ["float16[4]"], "made": {"model": "m"}, "faults": []}}
    path = columns.look(indices[1], "x").path
    path.write_bytes(path.read_bytes()[:100])
    assert main(["data", "columns", "list", urls]) == 1
    said = capsys.readouterr().out
    assert "x: float16[4], 1 of 2 shards (model m)" in said
    assert "cannot be used" in said
    assert "00001.tar.x.arrow: is damaged" in said


def test_exports_that_cannot_be_are_told(urls, tmp_path):
    indices = indices_of(urls)
    for kind, index in zip(("int32", "float32"), indices):
        with columns.write(index, "x", Kind(kind)):
            pass
    for given, said in (
        (["x", "--out", "x.csv"], "name a file that ends in .parquet"),
        (["x", "x", "--out", "x.parquet"], "two columns 'x'"),
        (["y", "--out", "x.parquet"], "there is no column y"),
        (["x", "--out", "x.parquet"], "other kinds than those of the first shard"),
    ):
        given = [text.replace("x.", f"{tmp_path}/x.") for text in given]
        with pytest.raises(UserError, match=said):
            tool.main(["export", urls, *given])
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith("x")]
