"""Scan shards into their sidecar indices, so that a run starts at once."""

from __future__ import annotations

import argparse
import json
import time

from mmclr.data_tools.lib import contents

from mmclr.data.shards.index import open_indices
from mmclr.data.shards.sources import expand
from mmclr.display.secrets import redact_tree
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
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    args = parser.parse_args(argv)
    begin = time.perf_counter()
    indices = open_indices(expand(args.shards))
    seconds = time.perf_counter() - begin
    found = contents.facts(indices)
    if args.json:
        say(json.dumps(redact_tree({**found, "seconds": round(seconds, 3)})))
    else:
        for line in contents.lines(found):
            say(line)
        say(f"took {seconds:.1f} s")
    return int(bool(found["damaged"]))
