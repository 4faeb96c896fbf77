"""Add generated captions to shards, beside the original ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict

from mmclr.data_tools.caption import Images, written
from mmclr.data_tools.lib.carry import carried, carry
from mmclr.data_tools.lib.every_sample import every_sample
from mmclr.data_tools.lib.inputs import json_bytes
from mmclr.data_tools.lib.shard_writer import ShardWriter

from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Sample, Shards
from mmclr.data.shards.sources import expand
from mmclr.display.terminal import say
from mmclr.encoder import Encoder
from mmclr.errors import UserError
from mmclr.models.captioning.decoding import add_arguments, decoding


def main(argv: list[str]) -> None:
    """`mmclr data caption SHARDS OUT --model MODEL`."""
    parser = argparse.ArgumentParser(
        description="Write samples of shards into new shards, a generated caption added to the json of each. Keys and "
        "all other members stay as they are, and columns follow by key; a sample whose image cannot be read gets none "
        "and is counted. Training then takes either: data.caption={txt: 0.5, json:generated: 0.5}. The same command "
        "goes on where it stopped.",
        epilog="example: mmclr data caption 'shards/*.tar' captioned --model runs/coca --top-p 0.9",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="folder for the new shards")
    parser.add_argument("--model", required=True, help="a run, checkpoint, model folder or export with a captioner")
    parser.add_argument("--field", default="generated", help="of the json, for the caption (default generated)")
    parser.add_argument("--samples", type=int, default=10_000, help="samples in a shard (default 10000)")
    parser.add_argument("--megabytes", type=int, default=1000, help="or until it has this size (default 1000)")
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=64, help="images at a time (default 64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_args(argv)
    urls, how = expand(args.shards), decoding(args)
    settings = {
        "shards": urls,
        "model": args.model,
        "field": args.field,
        "batch": args.batch,
        **asdict(how),
        "samples": args.samples,
        "megabytes": args.megabytes,
    }
    writer, ledger = ShardWriter(args.out, settings, args.samples, args.megabytes * 1_000_000), Ledger()
    indices = [] if carried(writer) else open_indices(urls)
    if not writer.finished:
        encoder = Encoder.load(args.model, device=args.device)
        shards = every_sample(indices, ledger)
        recaption(shards, writer, ledger, written(encoder, _images(shards), writer.done, how, args.batch), args.field)
    written_ = sum(shard["samples"] for shard in writer.state["shards"])
    say(f"{args.out}: {len(writer.state['shards'])} shards, {written_:,} samples with json:{args.field}")
    ledger.counts = dict(writer.state["left_out"])  # those of an earlier run that was stopped, too
    for line in ledger.lines(met="without a caption"):
        say(f"  {line}")
    for line in carry(writer, indices):
        say(f"  {line}")


def recaption(
    shards: Shards, writer: ShardWriter, ledger: Ledger, captions: Iterable[tuple[int, str | Fault]], field: str
) -> None:
    """Write what an earlier run has not dealt with, captions in the json's `field`."""
    with writer:
        for number, caption in captions:
            sample, fault = None, caption if isinstance(caption, Fault) else None
            try:
                sample = shards.read(number)
                if not isinstance(caption, Fault):
                    sample.members["json"] = _json(sample, field, caption)
            except Fault as found:
                fault = found
            if fault is not None:
                ledger.add([shards.entry(number, fault)])
                writer.leave_out(fault.reason)
            if sample is not None:
                writer.add(sample.key, sample.members, number + 1)
        writer.finish(len(shards))


def _images(shards: Shards) -> Images:
    return Images([str(number) for number in range(len(shards))], [(shards, number) for number in range(len(shards))])


def _json(sample: Sample, field: str, caption: str) -> bytes:
    """Return the sample's json with the caption in it. Raises Fault where it cannot be read."""
    tree = fields.tree(sample.members.get("json", b"{}"), "json")
    if not isinstance(tree, dict):
        raise Fault("bad_text", "its json is no object, so it has no room for a caption")
    if field in tree:
        raise UserError(f"{sample.shard}, sample {sample.key}: its json has {field!r} already; choose another --field")
    return json_bytes({**tree, field: caption})
