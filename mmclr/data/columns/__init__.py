"""Columns: values per sample (numbers, texts, vectors) in Arrow files beside their shards, memory-mapped.

A column of a shard is one file, whole or absent, with a value for every sample in the order of the shard's index. It
names the index that it was made for, so that one of another shard, or of an older state of this one, is refused.
`write` makes one, `holds` says whether one is there, `Columns` reads values by sample number, `listing` lists them.
"""

from mmclr.data.columns.kind import Kind
from mmclr.data.columns.of_shard import Writer, check, holds, listing, look, open_column, refuse_others, write
from mmclr.data.columns.reader import Column, Columns

__all__ = [
    "Column",
    "Columns",
    "Kind",
    "Writer",
    "check",
    "holds",
    "listing",
    "look",
    "open_column",
    "refuse_others",
    "write",
]
