"""Columns follow samples into other shards by key, or it is said why one stays behind."""

import json

import numpy as np
import pytest
from mmclr.data_tools.commands.convert import reshard

from mmclr.cli import main
from mmclr.data import columns
from mmclr.data.columns import Kind
from mmclr.data.shards.index import open_indices
from tests.data.filled import fill, indices_of
from tests.data.made import pair, write_shards, write_tar


@pytest.fixture
def urls(tmp_path):
    return write_shards(tmp_path / "old", [5, 7])


def rows(pattern, name):
    """Values by key over all shards."""
    found = {}
    for index in indices_of(pattern):
        values = columns.open_column(index, name)[1]
        values = values.to_pylist() if not isinstance(values, np.ndarray) else values.tolist()
        found |= dict(zip(index.keys(), values))
    return found


def test_every_kind_of_column_follows_by_key(urls, tmp_path, capsys):
    fill(indices_of(urls), "x", Kind("float64"), np.arange(12) / 3)
    fill(indices_of(urls), "v", Kind("float16", 3), np.arange(36).reshape(12, 3), {"model": "abc"})
    fill(indices_of(urls), "t", Kind("string"), np.array([f"é {n}" for n in range(12)], object))
    reshard.main([urls, str(tmp_path / "new"), "--samples", "4", "--shuffle", "3"])
    new = str(tmp_path / "new" / "*.tar")
    assert list(rows(new, "x")) != list(rows(urls, "x"))
    for name in ("x", "v", "t"):
        assert rows(new, name) == rows(urls, name)
    assert columns.holds(indices_of(new)[0], "v", {"model": "abc"})
    said = capsys.readouterr().out
    assert "the column v (float16[3]) is beside the new shards, too" in said
    for path in (tmp_path / "old").iterdir():
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").glob("*.arrow")}
    assert len(before) == 9
    assert json.loads((tmp_path / "new" / "packed.json").read_text())["columns"] == [
        line.strip() for line in said.splitlines() if "the column" in line
    ]


def test_what_one_old_shard_lacks_is_missing_in_the_new(urls, tmp_path):
    first, _ = indices_of(urls)
    fill([first], "x", Kind("int64"), np.arange(5))
    reshard.main([urls, str(tmp_path / "new"), "--samples", "9"])
    assert list(rows(str(tmp_path / "new" / "*.tar"), "x").values()) == [*range(5), *[-1] * 7]


def test_a_call_that_was_ended_between_shards_and_columns_goes_on(urls, tmp_path, monkeypatch):
    from mmclr.data_tools.lib import carry

    fill(indices_of(urls), "x", Kind("int64"), np.arange(12))
    words = [urls, str(tmp_path / "new"), "--samples", "5"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(carry, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            reshard.main(words)
    new = str(tmp_path / "new" / "*.tar")
    assert not list((tmp_path / "new").glob("*.arrow"))
    reshard.main(words)
    assert rows(new, "x") == rows(urls, "x")


@pytest.mark.parametrize(
    ("keys", "facts", "said"),
    [
        (["ab", "ac"], [{}, {}], "the column x stays behind: the key 'a' is of several samples"),
        (["ab", "cd"], [{"by": 1}, {"by": 2}], "1.tar was made otherwise than that of others"),
    ],
)
def test_what_cannot_follow_stays_behind_in_a_sentence(keys, facts, said, tmp_path, capsys):
    for number, own in enumerate(keys):
        members = [(f"{key}.{e}", data) for n, key in enumerate(own) for e, data in pair(n).items()]
        write_tar(tmp_path / f"{number}.tar", members)
        fill(open_indices([str(tmp_path / f"{number}.tar")]), "x", Kind("int64"), np.arange(2), facts[number])
    assert main(["data", "reshard", str(tmp_path / "*.tar"), str(tmp_path / "new")]) == 0
    assert said in capsys.readouterr().out
    assert not list((tmp_path / "new").glob("*.arrow"))
