"""Shards with columns beside them."""

import numpy as np

from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.sources import expand
from tests.data.made import write_shards


def four_shards(tmp_path, monkeypatch):
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
