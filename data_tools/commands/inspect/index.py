"""Scan shards into their sidecar indices, so that a run starts at once."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.sources import expand
from mmclr.display.terminal import say


def main(argv: list[str]) -> int:
    """Index shards and print what is in them; the status is 1 when some are damaged."""
    parser = argparse.ArgumentParser(
        description="Scan tar shards into their sidecar indices (SHARD.index beside each shard, or in "
        "~/.cache/mmclr/index where that cannot be written). Training makes missing ones itself; an index is made "
        "again when the size or the time of its shard has changed.",
        epilog="example: mmclr data index 'shards/{00000..00099}.tar'",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    args = parser.parse_args(argv)
    begin = time.perf_counter()
    indices = open_indices(expand(args.shards))
    seconds = time.perf_counter() - begin
    for line in describe(indices):
        say(line)
    say(f"took {seconds:.1f} s")
    return int(any(index.problems for index in indices))


def describe(indices: Sequence[ShardIndex]) -> list[str]:
    """Return lines about shards: how many, what samples hold, what is damaged."""
    kinds: Counter[str] = Counter()
    for index in indices:
        for kind, count in zip(index.kinds, index.kind_counts):
            kinds[" ".join(sorted(kind)) or "nothing left"] += count
    size = sum(index.stat.size for index in indices)
    lines = [f"{len(indices):,} shards, {sum(map(len, indices)):,} samples, {size / 1e9:.2f} GB"]
    lines += [f"  {count:,} samples with {kind}" for kind, count in kinds.most_common()]
    for index in indices:
        lines += [f"  {index.url}: at byte {at:,}: {what}" for at, what in index.problems]
    return lines
