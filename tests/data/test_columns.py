"""Columns: values per sample beside shards, whole or absent, refused where they are not of their shard."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmclr.data import columns
from mmclr.data.columns import Columns, Kind, file
from mmclr.data.columns.clusters import Clusters
from mmclr.data.columns.of_shard import find
from mmclr.data.shards import cache
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError
from tests.data.made import write_shards, write_tar
from tests.kills import kill_at_every_call

VALUES = {
    "string": st.text(st.characters(blacklist_categories=["Cs"]), max_size=5),
    "float16": st.floats(width=16),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    **{f"int{bits}": st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
}


@pytest.fixture
def urls(tmp_path, monkeypatch):
    """Return a pattern of shards of 5, 0, 7 and 1 samples in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_shards(tmp_path / "shards", [5, 0, 7, 1])


def indices_of(urls):
    return open_indices(expand(urls))


def fill(indices, name, kind, values, facts=None):
    """Write a column of consecutive values."""
    begin = 0
    for index in indices:
        with columns.write(index, name, kind, facts) as column:
            column.put(np.arange(len(index)), values[begin : begin + len(index)])
        begin += len(index)


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    return indices_of(write_shards(tmp_path_factory.mktemp("any"), [5, 0, 7, 1]))


@settings(max_examples=40)
@given(st.data())
def test_what_was_put_in_any_order_comes_back_in_any_order(indices, data):
    dtype = data.draw(st.sampled_from(sorted(VALUES)))
    kind = Kind(dtype, 0 if dtype == "string" else data.draw(st.integers(0, 3)))
    assert Kind.parse(str(kind)) == kind
    row = st.lists(VALUES[dtype], min_size=kind.width, max_size=kind.width) if kind.width else VALUES[dtype]
    oracle = []  # a plain list of what stands where
    for index in indices:
        own = [None] * len(index)
        with columns.write(index, "x", kind, {"by": "test"}) as column:
            for _ in range(data.draw(st.integers(0, 3))):
                rows = data.draw(st.lists(st.integers(0, max(len(index) - 1, 0)), unique=True, max_size=len(index)))
                rows = rows if len(index) else []
                values = [data.draw(row) for _ in rows]
                column.put(
                    rows, np.array(values, object if dtype == "string" else dtype).reshape(kind.shape(len(rows)))
                )
                for at, value in zip(rows, values):
                    own[at] = value
        oracle += own
    wanted = data.draw(st.lists(st.integers(0, len(oracle) - 1), max_size=20))
    missing = [kind.missing] * kind.width if kind.width else kind.missing
    expected = [missing if oracle[number] is None else oracle[number] for number in wanted]
    found = Columns([Shards(indices)]).values("x", wanted)
    assert found.shape == kind.shape(len(wanted))
    if dtype == "string":
        assert found.tolist() == expected
    else:
        np.testing.assert_array_equal(found, np.array(expected, dtype).reshape(found.shape))


def test_several_sources_and_samples_that_are_not_usable(tmp_path, urls):
    write_tar(tmp_path / "b.tar", [("a.txt", b"no image"), *((f"{n}.txt", b"t") for n in "bcd"), ("c.png", b"x")])
    parts = [Shards(indices_of(urls)), Shards(indices_of(str(tmp_path / "b.tar")))]
    fill(parts[0].indices, "n", Kind("int64"), np.arange(13))
    fill(parts[1].indices, "n", Kind("int64"), np.arange(100, 104))
    column = Columns(parts).column("n")
    assert len(column) == 14
    assert column.values([13, 0, 12, 5]).tolist() == [102, 0, 12, 5]
    assert column.values([]).shape == (0,)
    with pytest.raises(IndexError):
        column.values([14])


def test_a_column_of_other_shards_or_another_state_is_refused(tmp_path, urls):
    indices = indices_of(urls)
    fill(indices, "n", Kind("int32"), np.arange(13))
    assert all(columns.holds(index, "n") for index in indices)
    folder = Path(urls).parent
    a, c = (columns.look(index, "n").path for index in (indices[0], indices[2]))
    keep = a.read_bytes()
    shutil.copy(c, a)  # foreign, of another length
    with pytest.raises(
        UserError, match=r"00000.tar.n.arrow: the column n of .*00000.tar has values of 7 .* has 5; make"
    ):
        Columns([Shards(indices)]).column("n")
    a.write_bytes(keep)
    again = write_shards(tmp_path / "again", [5, 0, 7, 1], start=1)  # the same lengths, other samples
    shutil.copy(tmp_path / "again" / "00002.tar", folder / "00002.tar")
    assert again
    stale = indices_of(urls)
    assert [columns.holds(index, "n") for index in stale] == [True, True, False, True]
    with pytest.raises(UserError, match="00002.tar was made for another shard, or for this one before it was changed"):
        Columns([Shards(stale)]).values("n", [0])
    fill(stale[2:3], "n", Kind("int32"), np.arange(7))  # a later write replaces it
    assert Columns([Shards(stale)]).values("n", [5]).tolist() == [0]
    shutil.copy(columns.look(stale[0], "n").path, folder / "00000.tar.m.arrow")
    with pytest.raises(UserError, match="the column m of .* was written as 'n'"):
        columns.look(stale[0], "m")


def test_shards_that_are_moved_and_touched_keep_their_columns(tmp_path, urls):
    indices = indices_of(urls)
    fill(indices, "n", Kind("int32"), np.arange(13))
    shutil.copytree(Path(urls).parent, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").glob("*.tar"):
        path.touch()
    moved = indices_of(str(tmp_path / "elsewhere" / "*.tar"))
    assert Columns([Shards(moved)]).values("n", [7, 3]).tolist() == [7, 3]
    fill(moved, "n", Kind("int32"), np.arange(13) * 2)  # and are known as ours where no manifest tells
    assert Columns([Shards(moved)]).values("n", [7]).tolist() == [14]


def test_resharded_samples_need_their_columns_made_anew(tmp_path, urls):
    from mmclr.data_tools.commands.convert import reshard

    fill(indices_of(urls), "n", Kind("int32"), np.arange(13))
    reshard.main([urls, str(tmp_path / "out"), "--samples", "5"])
    made = indices_of(str(tmp_path / "out" / "*.tar"))
    with pytest.raises(UserError, match="there is no column n of this shard; make it anew, .*data columns export"):
        Columns([Shards(made)]).column("n")
    for index, old in zip(made, indices_of(urls)):
        path = columns.look(old, "n").path
        shutil.copy(path, path.parent.parent / "out" / f"{Path(index.url).name}.n.arrow")
    with pytest.raises(UserError, match="has values of|another shard"):
        Columns([Shards(made)]).column("n")


def test_what_lies_where(tmp_path, urls, monkeypatch):
    index = indices_of(urls)[0]
    fill([index], f"{tmp_path}/else/n", Kind("int32"), np.arange(5))
    assert find(index, f"{tmp_path}/else/n").path == tmp_path / "else" / "00000.tar.n.arrow"
    assert find(index, "n") is None
    Path(urls).parent.chmod(0o555)
    fill([index], "n", Kind("int32"), np.arange(5))
    assert find(index, "n").path.is_relative_to(cache.cache_folder() / "columns")
    Path(urls).parent.chmod(0o755)
    assert Columns([Shards([index])]).values("n", [4]).tolist() == [4]  # found there still
    fill([index], "m", Kind("float16", 3), np.zeros((5, 3)), {"model": "abc"})
    found = {each.name: each for each in columns.listing(index)}
    assert {name: str(each.kind) for name, each in found.items()} == {"n": "int32", "m": "float16[3]"}
    assert found["m"].facts == {"model": "abc"}
    assert columns.holds(index, "m", {"model": "abc"})
    assert not columns.holds(index, "m", {"model": "other"})
    assert [each.name for each in columns.listing(index, f"{tmp_path}/else")] == ["n"]
    assert expand(str(Path(urls).parent / "*")) == expand(urls)  # columns are no shards
    for name in ("", "a/", "../x/", "a b", "x" * 101, ".hidden"):
        with pytest.raises(UserError, match="a column's name has letters"):
            columns.write(index, name, Kind("int32")).__enter__()


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


def test_a_large_column_takes_no_memory(tmp_path, urls, monkeypatch):
    """A column larger than what is put together in memory comes back as a view of the mapped file; no file is open."""
    from mmclr.data.columns import of_shard

    monkeypatch.setattr(of_shard, "IN_MEMORY", 10)
    index = indices_of(urls)[0]
    values = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    fill([index], "v", Kind("float32", 64), values)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    _, found = columns.open_column(index, "v")
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    np.testing.assert_array_equal(found, values)
    assert not found.flags.owndata
    assert not found.flags.writeable
    address = found.ctypes.data
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [(parts[0].split("-"), parts[-1]) for parts in maps]
    assert next(p for (a, b), p in spans if int(a, 16) <= address < int(b, 16)).endswith("00000.tar.v.arrow")


OLD = Path(__file__).parent.parent / "old" / "cbe6e2c" / "shards"


def test_cluster_labels_of_earlier_versions(tmp_path):
    """Written by `mmclr data cluster` of commit cbe6e2c, and read as they stand there."""
    shutil.copytree(OLD, tmp_path / "old")
    found = Clusters([Shards(indices_of(str(tmp_path / "old" / "*.tar")))], "clusters")
    raw = np.concatenate([np.load(path) for path in sorted(OLD.glob("*.npy"))])
    assert (found.count, found.top) == (
        json.loads((OLD / "clusters.clusters.json").read_text())["clusters"],
        raw.shape[1],
    )
    assert [found.of(number).tolist() for number in range(len(raw))] == raw.tolist()
    assert found.nearest.tolist() == raw[:, 0].tolist()
