"""Write a few samples of each class, a memory that the next task trains on again.

Cappellazzo et al., Continual Contrastive Spoken Language Understanding, ACL Findings 2024, arXiv 2310.02699, whose
memory is chosen as by Rebuffi et al., iCaRL, CVPR 2017, arXiv 1611.07725. Of a class with mean mu of unit-norm image
embeddings x the i-th is p_i = argmin_x |mu - (x + sum_{j<i} p_j) / i| over those not taken yet, so that any first n of
them have a mean near that of the class.
Reduces to: the images nearest to their class's mean, for one of each class.
Differs from the paper: the memory is a share of the data; what a class has less than its part goes to the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmclr.data_tools.commands.curate.label import read
from mmclr.data_tools.lib import embedding
from mmclr.data_tools.lib.carry import carried, carry
from mmclr.data_tools.lib.every_sample import every_sample
from mmclr.data_tools.lib.shard_writer import ShardWriter
from mmclr.data_tools.lib.tell import tell
from rich.progress import track
from torch import Tensor

from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError

EXAMPLES = """examples:
  mmclr data remember 'task1-*.tar' memory --label cls --share 0.01 --pick herding --model runs/task1
      mmclr train papers/coconut.yaml 'data.train={new: {urls: task2-*.tar}, old: {urls: memory/*.tar}}' \\
        init.source=runs/task1 teacher=runs/task1
  mmclr data remember 'task1-*.tar' memory --label json:group --share 0.02 --pick random
"""
Place = tuple[int, int]  # number of a shard, row in it


def main(argv: list[str]) -> None:
    """`mmclr data remember SHARDS OUT`."""
    parser = argparse.ArgumentParser(
        description="Write a share of the samples of shards into new shards, about as many of each class: the memory "
        "that a later task trains on again. Herding takes those that keep a class's mean embedding; random takes any.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="folder for the new shards")
    parser.add_argument("--label", required=True, metavar="FIELD", help="where the class stands: cls, or json:NAME")
    parser.add_argument("--share", type=float, default=0.01, help="of all samples with a class (default 0.01)")
    parser.add_argument("--pick", default="herding", choices=["herding", "random"])
    parser.add_argument("--model", default="", help="whose embeddings herding takes: a run, model folder or name")
    parser.add_argument("--seed", type=int, default=0, help="of random picks")
    parser.add_argument("--batch", type=int, default=256, help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", action="store_true", help="say what was written as one JSON object")
    args = parser.parse_args(argv)
    if not 0 < args.share <= 1:
        raise UserError(f"--share {args.share:g}: it is above 0 to 1")
    if args.pick == "herding" and not args.model:
        raise UserError("--pick herding takes the embeddings of a model: name the task's run with --model")
    tell(run(args), args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Choose and write; return the numbers of it, and `lines` that say them. Raises UserError."""
    urls = expand(args.shards)
    names = ("label", "share", "pick", "model", "seed")
    settings: dict[str, Any] = {"shards": urls, **{name: getattr(args, name) for name in names}}
    writer = ShardWriter(args.out, settings, samples=10_000, size=1_000_000_000)
    ledger = Ledger()
    indices = [] if carried(writer) else open_indices(urls)
    if not writer.finished:
        chosen = choose(args, indices, ledger)
        writer.keep("classes", {name: len(rows) for name, rows in chosen.items()})
        copy(every_sample(indices, ledger), {place for rows in chosen.values() for place in rows}, writer, ledger)
    counts = writer.state.get("classes", {})
    written = sum(shard["samples"] for shard in writer.state["shards"])
    each = f"{min(counts.values())} to {max(counts.values())}" if counts else "none"
    more = [*ledger.lines(met="left out"), *carry(writer, indices)]
    return {
        "out": args.out,
        "samples": written,
        "classes": counts,
        "skipped": dict(ledger.counts),
        "lines": [
            f"{args.out}: {written:,} samples of {len(counts):,} classes, {each} of each",
            *(f"  {line}" for line in more),
        ],
    }


def choose(args: argparse.Namespace, indices: Sequence[ShardIndex], ledger: Ledger) -> dict[str, list[Place]]:
    """Return the places of the chosen samples by class. Raises UserError."""
    found = read(Shards(indices, (), fields.extensions([args.label]), ledger, images=False), args.label, ledger)
    places = {name: list[Place]() for name in found.names}
    for shard, codes in enumerate(found.codes):
        for row in np.flatnonzero(codes >= 0).tolist():
            places[found.names[codes[row]]].append((shard, row))
    vectors = _embedded(args, indices, ledger) if args.pick == "herding" else {}
    if args.pick == "herding":
        places = {name: [place for place in rows if place in vectors] for name, rows in places.items()}
    places = {name: rows for name, rows in places.items() if rows}
    capacity = int(args.share * sum(map(len, places.values())) + 1e-9)
    if not capacity:
        there = sum(map(len, places.values()))
        raise UserError(f"--share {args.share:g} of {there:,} samples is less than one; give a larger share")
    quotas = parts([len(rows) for rows in places.values()], capacity)
    generator = np.random.default_rng(args.seed)
    chosen = {}
    for (name, rows), quota in zip(places.items(), quotas):
        if args.pick == "herding":
            order = herding(torch.stack([vectors[place] for place in rows]), quota)
        else:
            order = generator.permutation(len(rows))[:quota].tolist()
        if quota:
            chosen[name] = [rows[at] for at in order]
    return chosen


def parts(counts: Sequence[int], capacity: int) -> list[int]:
    """Return how many of each class are taken: equally many, up to what there is, `capacity` in all if there are.

    Where they do not come out even, the first classes in their order get one more.
    """
    taken = [0] * len(counts)
    while (left := capacity - sum(taken)) > 0 and (room := [i for i, n in enumerate(counts) if taken[i] < n]):
        share = left // len(room)
        for i in room if share else room[:left]:
            taken[i] = min(counts[i], taken[i] + max(1, share))
    return taken


def herding(x: Tensor, count: int) -> list[int]:
    """Return the numbers of `count` rows of x [n, D], in the order in which herding takes them; of equals the first."""
    x = x.double()
    mean, total, left = x.mean(0), torch.zeros(x.shape[1], dtype=torch.float64), torch.ones(len(x), dtype=torch.bool)
    order: list[int] = []
    for i in range(1, min(count, len(x)) + 1):
        off = (mean - (x + total) / i).square().sum(1).masked_fill(~left, torch.inf)
        order.append(int(off.argmin()))
        left[order[-1]] = False
        total += x[order[-1]]
    return order


def _embedded(args: argparse.Namespace, indices: Sequence[ShardIndex], ledger: Ledger) -> Mapping[Place, Tensor]:
    """Return the embedding of each readable image, by its place."""
    shards = Shards(indices, (), (), ledger)
    encoder, _ = embedding.load(args.model, args.device)
    vectors, numbers = embedding.embed(encoder, shards, args.batch, ledger)
    return {shards.locate(number): vector for number, vector in zip(numbers, vectors)}


def copy(shards: Shards, chosen: set[Place], writer: ShardWriter, ledger: Ledger) -> None:
    """Write the chosen samples with all of their members, in the order of the shards."""
    with writer:
        for number in track(range(writer.done, len(shards)), "writing", disable=not sys.stderr.isatty()):
            place = shard, row = shards.locate(number)
            if place not in chosen:
                continue
            try:
                sample = shards.read(number)
            except Fault as fault:
                ledger.add([shards.entry(number, fault)])
                writer.leave_out(fault.reason)
                continue
            writer.add(shards.indices[shard].key(row, "surrogateescape"), sample.members, number + 1)
        writer.finish(len(shards))
