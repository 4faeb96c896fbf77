"""Columns: values per sample beside shards, whole or absent, refused where they are not of their shard."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmclr.data import columns
from mmclr.data.columns import Columns, Kind
from mmclr.data.columns.clusters import Clusters
from mmclr.data.columns.of_shard import find
from mmclr.data.shards import cache
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError
from tests.data.filled import fill, four_shards, indices_of
from tests.data.made import write_shards, write_tar


@pytest.fixture
def urls(tmp_path, monkeypatch):
    return four_shards(tmp_path, monkeypatch)


VALUES = {
    "string": st.text(st.characters(blacklist_categories=["Cs"]), max_size=5),
    "float16": st.floats(width=16),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    **{f"int{bits}": st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
}


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


def test_a_column_of_other_shards_with_the_same_samples_is_refused(tmp_path, urls):
    from mmclr.data_tools.commands.convert import reshard

    reshard.main([urls, str(tmp_path / "out"), "--samples", "5"])
    fill(indices_of(urls), "n", Kind("int32"), np.arange(13))
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
