"""Open all samples of shards with all of their members, to write them anew."""

from __future__ import annotations

from collections.abc import Sequence

from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.subset import read_subset


def every_sample(indices: Sequence[ShardIndex], ledger: Ledger, subset: str | None = None) -> Shards:
    """Return all samples of shards with all of their members, half ones too."""
    members = sorted({extension for index in indices for extension in index.extensions})
    uids = read_subset(subset) if subset else None
    return Shards(indices, (), members, ledger, images=False, subset=uids, whole=True)
