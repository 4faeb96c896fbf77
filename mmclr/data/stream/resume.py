"""The keys of `data:` that a resumed run may change: one table, and the comparison of those that stay.

The loader's position says which samples have been handed out only as long as the order is the same. So whatever
decides which sample comes when must stay; everything else may change, the number of processes and workers too.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmclr.data.shards.shards import Shards, fingerprint
from mmclr.data.stream.order import Order
from mmclr.errors import UserError

STAY = {  # key of the loader's state: the config's key, and its name
    "order": ("data.order", "order of the samples"),
    "samples": ("data.train", "number of usable samples"),
    "data": ("data.train", "fingerprint of the shards' names, sizes and order"),
    "keys": ("data.train", "checksum of the sources' first and last keys"),
    "rows": ("data.subset", "checksum of the chosen samples"),
    "weights": ("data.train", "ratio of the mixture's weights"),
    "block": ("data.block", "number of neighbours that stay together"),
    "window": ("data.window", "number of blocks that are mixed"),
    "seed": ("seed", "seed"),
    "groups": ("data.pure", "fingerprint of the groups"),
    "batch": ("data.batch", "size of batches that are drawn from groups"),
}
ADDED = {"order", "keys", "rows", "weights", "block", "window"}  # which older checkpoints do not have
# How a sample is made, what happens to bad ones, how it is read; the batch unless the order draws from it; an
# epoch's tail, because places that are padded are no positions. Of data.train, where the shards lie, the query of a
# signed address and the names of a mixture's sources.
MAY_CHANGE = frozenset(
    {"caption", "images", "images_at_most", "intensity", "array_augment", "array_view_augment", "fields", "label",
     "weight", "clusters", "augment", "views", "view_augment", "split", "edits", "view_augments", "companion",
     "generated", "degrade", "turned", "texts", "text_views", "text_sources", "view_edits", "decoder", "resample",
     "background", "max_pixels", "max_characters", "faults", "max_faults", "workers", "bucket", "cache",
     "cache_bytes", "allow_pipe", "patience", "batch", "tail"}
)  # fmt: skip


def identity(parts: Sequence[Shards], order: Order, seed: int) -> dict[str, Any]:
    """Return what must be the same for a position to mean the same samples."""
    return {
        "seed": seed,
        "samples": sum(map(len, parts)),
        "data": fingerprint(parts),
        "keys": _keys(parts),
        "rows": _rows(parts),
        "order": order.key,
        **order.identity(),
    }


def check(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise UserError where the stream of a checkpoint is not that of the config."""
    own = {name: ("data.order", name) for name in mine if name not in STAY}  # of an order that STAY does not know
    for name, (key, what) in (STAY | own).items():
        old, new = state.get(name), mine.get(name)
        if old != new and (name not in ADDED or name in state):
            raise UserError(
                f"{key}: the {what} was {_said(old)} in this checkpoint and is {_said(new)} in the config: the stream "
                "cannot go on where it stopped, samples of this epoch would come twice or never; set it back, or begin "
                "another run from these weights, with another out and init.source=CHECKPOINT"
            )


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ":".join(map(str, value))
    return "none" if value is None else str(value)


def _keys(parts: Sequence[Shards]) -> int:
    """Return a checksum that tells sources apart whose shards have like names and sizes."""
    value = 0
    for part in parts:
        for index in (part.indices[0], part.indices[-1]):
            if len(index):
                ends = f"{index.key(0)}\n{index.key(len(index) - 1)}\n"
                value = zlib.crc32(ends.encode("utf-8", "surrogateescape"), value)
    return value


def _rows(parts: Sequence[Shards]) -> int:
    """Return a checksum of the rows of shards of which some samples are left out."""
    value = 0
    for part in parts:
        for shard in range(len(part.indices)):
            rows = part.rows(shard)
            if rows is not None:
                value = zlib.crc32(rows.tobytes(), zlib.crc32(str(shard).encode(), value))
    return value
