"""Columns that were killed, damaged, or made by strangers: whole, or one sentence."""

import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmclr.data import columns
from mmclr.data.columns import Columns, Kind, file
from mmclr.data.columns.of_shard import find
from mmclr.data.shards.shards import Shards
from mmclr.errors import UserError
from tests.data.filled import fill, four_shards, indices_of
from tests.kills import kill_at_every_call


@pytest.fixture
def urls(tmp_path, monkeypatch):
    return four_shards(tmp_path, monkeypatch)


def test_a_file_of_somebody_else_stays(urls):
    index = indices_of(urls)[0]
    path = Path(urls).parent / "00000.tar.n.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("value", pa.int32())])):
        pass
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists and is not"):
        columns.check([index], "n")
    with pytest.raises(UserError, match="exists and is not"):
        fill([index], "n", Kind("int32"), np.arange(5))
    assert path.read_bytes() == before


def test_a_kill_at_any_moment_leaves_the_old_column_or_the_new(urls):
    index = indices_of(urls)[0]
    old, new = np.arange(5), np.arange(5) * 7

    def check(number):
        if columns.listing(index):
            assert columns.listing(index)[0].fault == ""
            assert Columns([Shards([index])]).values("n", range(5)).tolist() in (old.tolist(), new.tolist())
        seen.add(len(columns.listing(index)))

    seen = set()
    made = Path(urls).parent / "00000.tar.n.arrow"
    kill_at_every_call(lambda: fill([index], "n", Kind("int64"), old), check, lambda: made.unlink(missing_ok=True))
    assert seen == {0, 1}
    kill_at_every_call(lambda: fill([index], "n", Kind("int64"), new), check)
    fill([index], "n", Kind("int64"), new)
    assert not list(Path(urls).parent.glob("*mmclr-part*"))  # what kills left is swept
    with pytest.raises(ZeroDivisionError), columns.write(index, "m", Kind("int64")):
        1 / 0  # noqa: B018
    assert find(index, "m") is None


def test_any_damage_is_one_sentence_or_nothing(urls):
    """Bytes are spoilt, ends are cut: a file is refused, or (padding, the footer) says what it said."""
    index = indices_of(urls)[0]
    fill([index], "s", Kind("string"), np.array(["a", "", "bcd", "é", "f"], object))
    fill([index], "v", Kind("float32", 2), np.arange(10.0).reshape(5, 2))
    rng, refused = np.random.default_rng(0), []
    for name in "sv":
        path = columns.look(index, name).path
        whole, right = path.read_bytes(), Columns([Shards([index])]).values(name, range(5)).tolist()
        spoilt = [whole[:at] for at in range(0, len(whole) - 1, 97)]
        for at in range(0, len(whole), 7):
            spoilt.append(whole[:at] + bytes([whole[at] ^ (1 << rng.integers(8))]) + whole[at + 1 :])
        for data in spoilt:
            path.write_bytes(data)
            try:
                found = Columns([Shards([index])]).values(name, range(5)).tolist()
            except UserError as error:
                refused.append(str(error))
            else:
                assert found == right
        path.write_bytes(whole)
    assert len(refused) > 100
    assert all("\n" not in line and "00000.tar" in line and line.count("column") > 0 for line in refused)


def write_raw(path, array, facts=None, compression=None, told=None):
    """Write an Arrow file as a stranger would who knows our facts."""
    facts = told or json.dumps({"version": 1, "rows": len(array), "sums": {"value": 0}, "facts": facts or {}})
    metadata = {"mmclr": facts, "mmclr.sum": str(zlib.crc32(facts.encode()))}
    schema = pa.schema([pa.field("value", array.type)], metadata=metadata)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch([array], schema=schema))


@pytest.mark.parametrize(
    ("array", "compression", "said"),
    [
        (pa.array([b"a"], pa.binary()), None, "holds binary, not numbers"),
        (pa.array([[1]], pa.list_(pa.int32())), None, "holds list"),
        (pa.array(["a"]).dictionary_encode(), None, "holds dictionary"),
        (pa.array([None], pa.null()), None, "holds null"),
        (pa.array([[0] * 70_000], pa.list_(pa.int8(), 70_000)), None, "holds fixed_size_list"),
        (pa.array([0] * 100_000, pa.int32()), "zstd", "its rows are compressed"),
        (pa.array([1, None], pa.int32()), None, "other rows than it says"),
        (pa.array([1, 2], pa.int32()), None, "its checksum is another"),
    ],
)
def test_files_of_strangers(tmp_path, array, compression, said):
    write_raw(tmp_path / "x", array, compression=compression)
    with pytest.raises(file.Damaged, match=said):
        file.load(tmp_path / "x")


@pytest.mark.parametrize("told", ["{", "[]", '{"version": 2}', '{"version": 1, "rows": "x", "facts": {}}', "[" * 10**5])
def test_facts_of_strangers(tmp_path, told):
    write_raw(tmp_path / "x", pa.array([1]), told=told)
    with pytest.raises(file.Damaged):
        file.head(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        file.load(tmp_path / "none")


def test_a_value_that_does_not_fit_is_told(urls):
    index = indices_of(urls)[0]
    wide = {"int8": [128], "int16": [0.5], "int32": [np.nan], "float16": [1e6], "int64": [2**63]}
    for kind, values in wide.items():
        with pytest.raises(ValueError, match="does not fit"), columns.write(index, "n", Kind(kind)) as column:
            column.put([0], np.array(values))
    with columns.write(index, "n", Kind("float16")) as column:
        column.put([0], [0.1])
        for rows, values in (([0], [1.0, 2.0]), ([5], [1.0]), ([-1], [1.0]), ([0], [[1.0]])):
            with pytest.raises(ValueError, match="array of shape|rows are 0 to 4"):
                column.put(rows, values)
    assert columns.open_column(index, "n")[1][0] == np.float16(0.1)
