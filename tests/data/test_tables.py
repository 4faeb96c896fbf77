"""Tables: what is written is read; what is broken costs itself and is said with its place."""

import csv
import json
import random
import resource
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmclr.data.tabular import delimited, rows, tables
from mmclr.errors import UserError
from tests.data.broken_tables import COLUMNS, healthy, mutate, write

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=12)
CELLS = TEXT | st.text('",\n\r; a', max_size=8)


def read(path, columns=COLUMNS, encoding=""):
    """The values of good rows, and (row, reason) of the others."""
    found = list(tables.rows(path, columns, encoding))
    return [row.values for row in found if not row.fault], [(r.number, r.fault.reason) for r in found if r.fault]


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.sampled_from(["\r\n", "\n", "\r"]),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.sampled_from([".csv", ".tsv"]))  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory, table, ends, encoding, kind):
    path = tmp_path_factory.mktemp("t") / f"a{kind}"
    with open(path, "w", newline="", encoding=encoding) as file:
        out = csv.writer(file, delimiter=tables.SEPARATORS[kind], lineterminator=ends, quoting=csv.QUOTE_ALL)
        out.writerows([COLUMNS, *table])
    assert read(path) == ([dict(zip(COLUMNS, cells)) for cells in table], [])


BAD_ROWS = {  # bytes of a line: reason
    b'x.png,"never closed': "bad_row",
    b'x.png,"12" and 13" wide': None,  # quotes in places of their own: read as it always was
    b"x.png,a, comma": "bad_row",
    b"x.png,caf\xe9": "bad_text",
    b"x\xff.png,a": "bad_text",
    b"x.png," + b"w" * 300_000: None,
    b"x.png,a,,,": None,
    b"x.png": None,  # a row that ends early has no caption, which is for its reader to say
    b"": "nothing",
}


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda bad: repr(bad[:24]))
@pytest.mark.parametrize(
    "rest", [b"%d.png,c", b'%d.png,"c, ""d"""', b'%d.png,"a\nb"'], ids=["plain", "quoted", "lines"]
)
def test_a_bad_row_costs_itself(tmp_path, bad, rest):
    good = [rest % n for n in range(9)]
    for at in (0, 4, 9):
        lines = [b"image,caption", *good[:at], bad, *good[at:]]
        found, faults = read(write(tmp_path / "a.csv", b"\n".join(lines) + b"\n"))
        number = 2 + at * (1 + rest.count(b"\n"))
        reason = BAD_ROWS[bad]
        assert faults == ([(number, reason)] if reason not in (None, "nothing") else [])
        assert [row["image"] for row in found if row["image"] != "x.png"] == [f"{n}.png" for n in range(9)]
        assert len(found) == 9 + (reason is None)


def test_a_quote_that_closes_rows_later_swallows_none(tmp_path):
    text = 'image,caption\na.png,"12 inch\nb.png,two\nc.png,three"\nd.png,four\n'
    found, faults = read(write(tmp_path / "a.csv", text))
    assert faults == [(2, "bad_row")]
    assert [row["image"] for row in found] == ["b.png", "c.png", "d.png"]
    text = 'image,caption\na.png,"a dog,\na cat"\n'  # a caption of two lines is one
    assert read(write(tmp_path / "a.csv", text)) == ([{"image": "a.png", "caption": "a dog,\na cat"}], [])


def test_lines_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "LINE", 100)
    for kind, head, row, long in (
        (".csv", "image,caption\n", "a.png,{}\n", "w" * 999),
        (".csv", "image,caption\n", 'a.png,"{}"\n', "w\n" * 999),
        (".jsonl", "", '{{"image": "a.png", "caption": "{}"}}\n', "w" * 999),
    ):
        path = write(tmp_path / f"a{kind}", head + row.format("one") + row.format(long) + row.format("three"))
        found, faults = read(path)
        assert [r["caption"] for r in found if r["caption"] in ("one", "three")] == ["one", "three"]
        assert faults[0] == (3 if head else 2, "bad_row")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"image;caption\na.png;x\n", "its separator looks like ';'"),
        (b"image\tcaption\na.png\tx\n", r"looks like '\\t'"),
        (b"image,caption,caption\n", "2 columns are called 'caption'"),
        (b"image,captoin\na,b\n", "no column 'caption'; did you mean captoin"),
        ("image,caption\na.png,b\n".encode("utf-16-le"), "line 1: it has NULs"),
        ("b\xefld,caption\n".encode("latin-1"), "line 1: not UTF-8"),
        (b"", "the file is empty"),
        (b"\n\n", "no column 'image'"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path, data, said):
    with pytest.raises(UserError, match=said):
        read(write(tmp_path / "a.csv", data))


def test_headers_as_people_write_them(tmp_path):
    path = write(tmp_path / "a.csv", 'image, caption\na.png, "x, y"\n')
    assert read(path) == ([{"image": "a.png", "caption": "x, y"}], [])
    latin = write(tmp_path / "b.csv", "image,caption\na.png,caf\xe9\n".encode("latin-1"))
    assert read(latin)[1] == [(2, "bad_text")]
    assert read(latin, encoding="latin-1")[0] == [{"image": "a.png", "caption": "caf\xe9"}]
    for name, said in (("none.csv", "no such file"), ("b.xlsx", "a table is a .csv")):
        with pytest.raises(UserError, match=said):
            read(write(tmp_path / name, "x") if name != "none.csv" else tmp_path / name)
    with pytest.raises(UserError, match="there is no encoding 'latin-x'"):
        read(latin, encoding="latin-x")


def test_json_lines(tmp_path):
    lines = [
        '{"image": "a.png", "caption": "x"}',
        '{"image": "b.png"}',
        '["c.png", "y"]',
        "{",
        "[" * 100_000,
        "",
        '{"image": "d.png", "caption": null}',
        '{"image": "e.png", "caption": "caf\xe9"}',
    ]
    found, faults = read(write(tmp_path / "a.jsonl", "\n".join(lines).encode("latin-1")))
    assert [row["image"] for row in found] == ["a.png", "b.png", "d.png"]
    assert faults == [(3, "bad_row"), (4, "bad_text"), (5, "bad_text"), (8, "bad_text")]
    with pytest.raises(UserError, match="no column 'caption'; did you mean captions"):
        read(write(tmp_path / "a.jsonl", '{"image": "a.png", "captions": "x"}\n'))


def test_damaged_row_groups_cost_their_rows(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.table(
        {"image": [f"{n}.png" for n in range(30)], "caption": [f"caption {n} " * 40 for n in range(30)]}
    )
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=10, compression="zstd", use_dictionary=False)
    column = parquet.ParquetFile(path).metadata.row_group(1).column(1)
    whole = bytearray(path.read_bytes())
    whole[column.data_page_offset + 30 : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size - 30
    )
    found, faults = read(write(path, bytes(whole)))
    assert [row["image"] for row in found] == [f"{n}.png" for n in (*range(10), *range(20, 30))]
    assert faults == [(n, "unreadable") for n in range(11, 21)]
    with pytest.raises(UserError, match="damaged, or no Parquet file"):
        read(write(path, bytes(whole[:-20])))
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "state.json", json.dumps({"_data_files": [{"filename": "../a.parquet"}]}))
    with pytest.raises(UserError, match="which is not in this folder"):
        read(tmp_path / "d")


def test_files_read_whole(tmp_path):
    for data, said in ((b"caf\xe9", "line 1: not UTF-8"), (b"{", "not JSON"), (b"[" * 100_000, "too many brackets")):
        with pytest.raises(UserError, match=said):
            rows.read_json(write(tmp_path / "a.json", data))
    with pytest.raises(UserError, match="a folder, but a file"):
        rows.read_json(tmp_path)
    assert rows.read_json(write(tmp_path / "a.json", '{"a": 1}'.encode("utf-16"))) == {"a": 1}


@pytest.mark.parametrize("count", [pytest.param(90, id="some"), pytest.param(500, id="all", marks=pytest.mark.slow)])
def test_mutated_tables(tmp_path, count):
    """Any table is rows and faults, or one sentence: no other error, no hang, no heap of memory."""
    kinds = healthy(tmp_path)
    for name, data, how in kinds:
        assert len(how(write(tmp_path / name, data))) > 0
    before, used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(count):
        draw = random.Random(number)
        name, data, how = kinds[number % len(kinds)]
        path, began = write(tmp_path / name, mutate(data, draw)), time.monotonic()
        try:
            used += len(how(path)) > 0
        except UserError as error:
            assert str(error)  # noqa: PT017
        assert time.monotonic() - began < 10, (number, name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert used > count / 4  # the fuzz is not all of it about headers
