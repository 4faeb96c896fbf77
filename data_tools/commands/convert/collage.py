"""Lay images in a grid, with exact boxes and masks and a caption that names one of them."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mmclr.data_tools.lib.collages import Maker
from mmclr.data_tools.lib.shard_writer import ShardWriter
from mmclr.data_tools.lib.tell import tell
from rich.progress import track

from mmclr.data import columns
from mmclr.data.samples import absent
from mmclr.data.samples.fields import extensions
from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.display.console import Console
from mmclr.errors import UserError

MEGABYTES = 1000  # of a shard, at most
EXAMPLES = """examples:
  mmclr data collage 'test-*.tar' collages --caption json:plain --masks rle --count 2000
      mmclr train my.yaml 'data.train=collages/*.tar' 'data.fields.boxes={values: json:boxes, most: 4}'
  mmclr data collage 'test-*.tar' nine --grid 3 --size 64 --label json:family --seed 1
Every collage is KEY.png, KEY.txt (the caption of one of its images) and KEY.json with, row by row, boxes ([left, top,
right, bottom] of each mask, in shares of the canvas), names (all captions), named (which is the caption's, from 0),
sources (keys), labels (--label) and grid. --masks rle adds masks in COCO's uncompressed form, png the members
KEY.mask0.png, ... Each image is laid on white and fitted into its cell whole. Its mask is its opaque pixels (alpha from
128); where all are, and its corners are white (all channels from 230), all but the white that reaches its border; else
all of it. The images of a collage have different captions. Columns stay behind: a collage is of several samples.
"""


def main(argv: list[str]) -> None:
    """Write collages."""
    parser = argparse.ArgumentParser(
        description="Lay photographs of shards in a grid on one canvas, of which every box and mask is known to the "
        "pixel, and write the canvases as shards whose captions name one image each: to test and measure what finds "
        "objects, on real images. The same seed and shards give the same bytes; the same command goes on where it "
        "stopped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="folder for the new shards")
    parser.add_argument("--caption", default="txt", metavar="FIELD", help="txt, or json:title (default txt)")
    parser.add_argument("--label", default="", metavar="FIELD", help="class of an image, cls or json:NAME, for labels")
    parser.add_argument("--grid", type=int, default=2, metavar="N", help="rows and columns of images (default 2)")
    parser.add_argument("--size", type=int, default=112, metavar="PX", help="of each cell (default 112)")
    parser.add_argument("--masks", choices=("none", "rle", "png"), default="none", help="written too (default none)")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="collages (default 1000)")
    parser.add_argument("--samples", type=int, default=10_000, help="collages in a shard (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0)")
    parser.add_argument("--json", action="store_true", help="say what was made as one JSON object")
    parser.add_argument("--dry-run", action="store_true", help="make all and count, write nothing")
    args = parser.parse_args(argv)
    tell(run(args), args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make and write; return the numbers of it, and `lines` that say them. Raises UserError."""
    for name, least, most in (("grid", 2, 16), ("size", 8, 2048), ("count", 1, 1 << 40), ("samples", 1, 1 << 40)):
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name} {getattr(args, name)}: give {least} to {most:,}")
    urls, ledger = expand(args.shards), Ledger()
    indices = open_indices(urls)
    shards = Shards(indices, extensions([args.caption]), extensions([args.label]), ledger)
    absent.check([shards], {"--caption": [args.caption], "--label": [args.label]})
    make = Maker(shards, args.caption, args.label, args.grid, args.size, args.seed, ledger)
    if args.dry_run:
        for number in _tracked(range(args.count)):
            make(number)
    else:
        names = ("caption", "label", "grid", "size", "masks", "count", "samples", "seed")
        settings = {"collages": 1, "shards": urls, **{name: getattr(args, name) for name in names}}
        write(make, ShardWriter(args.out, settings, args.samples, MEGABYTES * 1_000_000), args)
    return _told(args, make, any(columns.listing(index) for index in indices))


def write(make: Maker, writer: ShardWriter, args: argparse.Namespace) -> None:
    """Write the collages that an earlier run has not written."""
    make.left_out = writer.state.setdefault("sources_left_out", make.left_out)  # those of a run that was stopped, too
    if writer.finished:
        return
    with writer:
        for number in _tracked(range(writer.done, args.count)):
            writer.add(f"{number:08d}", make(number).members(args.masks), number + 1)
        writer.finish(args.count)


def _tracked(numbers: range) -> Any:
    console = Console(stderr=True)
    return track(numbers, "collage", console=console, transient=True, disable=not sys.stderr.isatty())


def _told(args: argparse.Namespace, make: Maker, beside: bool) -> dict[str, Any]:
    """Return the numbers and the lines of what was done."""
    make.ledger.counts = dict(Counter(reason for reasons in make.left_out.values() for reason in reasons))
    side, done = args.grid * args.size, "would be written" if args.dry_run else "written"
    lines = [
        f"{done}: {args.count:,} collages of {args.grid} x {args.grid} images, {side} x {side} px, to {Path(args.out)}",
        *(f"  {line}" for line in make.ledger.lines(met="left out")),
    ]
    if beside:
        lines.append("  the columns beside the shards stay behind: a collage is of several samples")
    return {
        "out": args.out,
        "collages": args.count,
        "grid": args.grid,
        "side": side,
        "masks": args.masks,
        "seed": args.seed,
        "sources": len(make.shards),
        "excluded": make.ledger.excluded,
        "left_out": make.ledger.counts,
        "dry_run": args.dry_run,
        "lines": lines,
    }
