"""Write shards of another size, shuffled, or only the samples of a DataComp subset."""

from __future__ import annotations

import argparse
import sys

import numpy as np
from mmclr.data_tools.lib.carry import carried, carry
from mmclr.data_tools.lib.every_sample import every_sample
from mmclr.data_tools.lib.shard_writer import ShardWriter
from rich.progress import track

from mmclr.data.random import key
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Sample, Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.permutation import permute, positions
from mmclr.display.terminal import say


def main(argv: list[str]) -> None:
    """Write the samples of shards into new shards, every member and key as it is."""
    parser = argparse.ArgumentParser(
        description="Write samples of shards into new shards. Keys and all members stay as they are, byte for byte "
        "(extensions in lower case); "
        "half samples stay too, and columns beside the shards follow by key. A shard appears when it is complete; the "
        "same command goes on where it stopped.",
        epilog="example: mmclr data reshard 'pool/*.tar' out --subset best.npy --samples 10000 --shuffle 0",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="folder for the new shards")
    parser.add_argument("--samples", type=int, default=10_000, help="samples in a shard (default 10000)")
    parser.add_argument("--megabytes", type=int, default=1000, help="or until it has this size (default 1000)")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="in a random order (default: as they stand)")
    parser.add_argument("--subset", help="DataComp subset file: only the samples with these uids")
    parser.add_argument("--prefix", default="", help="of the names of the new shards")
    args = parser.parse_args(argv)
    urls = expand(args.shards)
    settings = {
        "shards": urls,
        "shuffle": args.shuffle,
        "subset": args.subset,
        "samples": args.samples,
        "megabytes": args.megabytes,
    }
    writer = ShardWriter(args.out, settings, args.samples, args.megabytes * 1_000_000, args.prefix)
    ledger = Ledger()
    indices = [] if carried(writer) else open_indices(urls)
    if not writer.finished:
        reshard(every_sample(indices, ledger, args.subset), writer, ledger, args.shuffle)
    written = sum(shard["samples"] for shard in writer.state["shards"])
    say(f"{args.out}: {len(writer.state['shards'])} shards, {written:,} samples")
    ledger.counts = dict(writer.state["left_out"])  # those of an earlier run that was stopped, too
    for line in ledger.lines(met="left out"):
        say(f"  {line}")
    for line in carry(writer, indices):
        say(f"  {line}")


def reshard(shards: Shards, writer: ShardWriter, ledger: Ledger, shuffle: int | None = None) -> None:
    """Write what an earlier run has not dealt with."""
    word = key(np.array([shuffle or 0]))
    with writer:
        for at in track(range(writer.done, len(shards)), "reshard", disable=not sys.stderr.isatty()):
            number = at if shuffle is None else int(permute(positions(at, 1), len(shards), word)[0])
            try:
                sample = _read(shards, number)
            except Fault as fault:
                ledger.add([shards.entry(number, fault)])
                writer.leave_out(fault.reason)
                continue
            writer.add(sample.key, sample.members, at + 1)
        writer.finish(len(shards))


def _read(shards: Shards, number: int) -> Sample:
    """Return a sample under its key as it is stored. Raises Fault."""
    shard, row = shards.locate(number)
    return shards.read(number)._replace(key=shards.indices[shard].key(row, "surrogateescape"))
