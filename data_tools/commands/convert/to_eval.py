"""Write any evaluation set in CLIP_benchmark's layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmclr.eval import options
from mmclr.eval.sets import layout

from mmclr.display.terminal import say


def main(argv: list[str]) -> None:
    """Write a set in CLIP_benchmark's layout."""
    parser = argparse.ArgumentParser(
        "mmclr data to-eval",
        description="Write any evaluation set in CLIP_benchmark's "
        "layout, which CLIP_benchmark, DataComp and mmclr eval read. Samples get new keys, so columns stay behind.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_data(parser)
    options.add_classes(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="ROOT", help="the set's folder")
    parser.add_argument(
        "--shards", type=int, default=8, metavar="N", help="at least the loader processes of the reader"
    )
    args = parser.parse_args(argv)
    data = options.dataset(args)
    reads = [*filter(None, str(args.data).split("::")), *filter(None, [args.images])]
    root = layout.write(data, args.out, split=args.split, shards=args.shards, reads=reads)
    say(f"written: {root} ({len(data)} images)")
    for line in data.ledger.lines(met="left out"):
        say(line)


EXAMPLES = """examples:
  mmclr data to-eval --data 'test-{00000..00003}.tar' --out wds_icons                             retrieval
  mmclr data to-eval --data 'test-*.tar' --label json:subgroup --template 'a {c}' --out wds_groups    classification
  mmclr data to-eval --data 'test-*.tar' --label json:tags --out wds_tags                          multi-label
  mmclr data to-eval --data dataset_coco.json --images coco/ --split test --out wds_coco           Karpathy's split
"""
