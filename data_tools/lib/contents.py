"""Tell what shards hold, as their indices know it: as facts for programs, as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import ShardIndex


def facts(indices: Sequence[ShardIndex]) -> dict[str, Any]:
    """Return how many shards, samples and bytes there are, what members samples have, and which places are damaged."""
    kinds: Counter[str] = Counter()
    for index in indices:
        for kind, count in zip(index.kinds, index.kind_counts):
            kinds[" ".join(sorted(kind))] += int(count)
    return {
        "shards": len(indices),
        "samples": sum(map(len, indices)),
        "bytes": sum(index.stat.size for index in indices),
        "members": dict(kinds.most_common()),
        "damaged": [
            {"shard": identity(index.url), "byte": int(at), "what": what}
            for index in indices
            for at, what in index.problems
        ],
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of such facts."""
    yield f"{found['shards']:,} shards, {found['samples']:,} samples, {found['bytes'] / 1e9:.2f} GB"
    yield from (f"  {count:,} samples with {kind or 'nothing left'}" for kind, count in found["members"].items())
    yield from (f"  {place['shard']}: at byte {place['byte']:,}: {place['what']}" for place in found["damaged"])
