"""Label images with their nearest clusters, by k-means of a model's embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmclr.data_tools.lib import embedding, kmeans
from mmclr.data_tools.lib.tell import tell
from torch import Tensor

from mmclr.data import columns
from mmclr.data.columns import clusters
from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError

EXAMPLES = """examples:
  mmclr data cluster 'shards/*.tar' --model runs/clip --k 1000 --top 8           for the objective mlcd:
      mmclr train papers/mlcd.yaml 'data.train=shards/*.tar' data.clusters=clusters
  mmclr data cluster 'shards/*.tar' --model runs/stage0 --k 10 --name stage0     for batches from one cluster (mcl):
      mmclr train papers/mcl.yaml 'data.train=shards/*.tar' 'data.pure=[stage0]'
Memory: 4 D bytes an image for the embeddings, and 4 D k for the centres.
"""


def main(argv: list[str]) -> None:
    """`mmclr data cluster SHARDS --model MODEL`."""
    parser = argparse.ArgumentParser(
        description="Embed every image of shards with a model, find k centres by k-means (by cosine), and write the "
        "numbers of the nearest centres of each image as a column beside each shard, SHARD.NAME.arrow.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("--model", required=True, help="a run, checkpoint, model folder, export or name")
    parser.add_argument("--k", type=int, default=1000, help="clusters (default 1000)")
    parser.add_argument("--top", type=int, default=1, help="nearest clusters that each image gets (default 1)")
    parser.add_argument("--name", default="clusters", help="of the labels; FOLDER/NAME writes them to another folder")
    parser.add_argument(
        "--fit",
        type=int,
        default=0,
        metavar="N",
        help="images from which the centres are found, at least k (default 256 k, at most all)",
    )
    parser.add_argument("--iterations", type=int, default=30, help="of k-means, at most (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the images to begin from")
    parser.add_argument(
        "--features",
        default="",
        metavar="NAME",
        help="keep the embeddings as this column, and read those that are there: a call that was ended goes on",
    )
    parser.add_argument("--dtype", default="float32", choices=["float16", "float32"], help="of kept embeddings")
    parser.add_argument("--batch", type=int, default=256, help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", action="store_true", help="say what was made as one JSON object")
    parser.add_argument("--dry-run", action="store_true", help="open all and check the places, embed and write nothing")
    args = parser.parse_args(argv)
    if not 1 <= args.top <= args.k:
        raise UserError(f"--top {args.top}: it is at least 1 and at most --k {args.k}")
    tell(run(args), args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Embed, cluster and write; return the numbers of it, and `lines` that say them."""
    ledger = Ledger()
    indices = open_indices(expand(args.shards))
    for name in filter(None, (args.name, args.features)):
        columns.check(indices, name)  # before hours of work
    encoder, column = embedding.load(args.model, args.device, args.features, args.dtype)
    shards = Shards(indices, (), encoder.medium.beside, ledger, encoder.medium.members)
    if args.dry_run:
        line = f"{len(shards):,} images would be embedded, and {len(shards.indices)} files {args.name} written"
        return {"dry_run": True, "images": len(shards), "shards": len(shards.indices), "lines": [line]}
    vectors, kept = embedding.embed(encoder, shards, args.batch, ledger, column)
    if len(vectors) < args.k:
        raise UserError(f"--k {args.k}: there are only {len(vectors)} readable images")
    labels, counts, cosine = assign(vectors, args.k, args.top, args.fit or 256 * args.k, args.iterations, args.seed)
    facts = {"clusters": args.k, "top": args.top, "model": args.model, "images": len(vectors), "seed": args.seed}
    paths = write(shards, args.name, labels, kept, facts)
    unreadable, least, most = len(shards) - len(vectors), int(counts.min()), int(counts.max())
    return {
        "dry_run": False,
        "images": len(vectors),
        "clusters": args.k,
        "smallest": least,
        "largest": most,
        "cosine": cosine,
        "unreadable": unreadable,
        "files": [str(path) for path in paths],
        "lines": [
            f"{len(vectors):,} images in {args.k} clusters of {least} to {most}, mean cosine to the centre "
            f"{cosine:.3f}; {unreadable} images unreadable",
            *(f"  {line}" for line in ledger.lines(met="left out")),
            f"written: {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
        ],
    }


def assign(x: Tensor, k: int, top: int, fit: int, iterations: int, seed: int) -> tuple[Tensor, np.ndarray, float]:
    """Return the nearest clusters [n, top] of vectors [n, D], how many have each nearest, and the mean cosine to it."""
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: max(fit, k)].sort().values
    centres = kmeans.fit(x[some] if len(some) < len(x) else x, k, iterations, seed)
    cosines, labels = kmeans.nearest(x, centres, top)
    return labels, torch.bincount(labels[:, 0], minlength=k).numpy(), float(cosines[:, 0].double().mean())


def write(shards: Shards, name: str, labels: Tensor, kept: Sequence[int], facts: dict[str, object]) -> list[Path]:
    """Write the labels [n, top] of the images with the numbers `kept`, and -1 for all other samples."""
    whole = [np.full((len(index), labels.shape[1]), -1, np.int32) for index in shards.indices]
    for number, row in zip(kept, labels.numpy()):
        shard, place = shards.locate(number)
        whole[shard][place] = row
    return clusters.write(shards.indices, name, whole, facts)
