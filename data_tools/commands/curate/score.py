"""Score pairs of image and text, by a model or a scorer of your own, and write a column."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from mmclr.data_tools.lib.scoring import Scoring
from mmclr.data_tools.lib.tell import tell
from rich.progress import Progress

from mmclr import scorers
from mmclr.config import merge, parse_override
from mmclr.data import columns
from mmclr.data.samples import absent
from mmclr.data.samples.captions import Chooser, extensions
from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.display.console import Console
from mmclr.display.secrets import redact_tree

PERCENTILES = (0, 5, 50, 95, 100)
EXAMPLES = """examples:
  mmclr data score 'shards/*.tar' similarity model=runs/clip
  mmclr data score 'shards/*.tar' similarity model=runs/clip --caption json:title --name title_score --dry-run
  mmclr data score 'shards/*.tar' sharpness size=64                  a scorer of your own, with --plugins own.py
  mmclr train debug.yaml 'data.train=shards/*.tar' data.fields.target=column:similarity \\
      'objectives={clip: {reweight: {use: where, keep: target > 0.2}}}'             only pairs with a higher score count
A sample of several captions gets the mean over them; one that cannot be read gets none (NaN). A call that was ended
goes on at the shard where it was. mmclr/scorers/scorer.py says how a scorer is written.
"""


def main(argv: list[str]) -> None:
    """`mmclr data score SHARDS SCORER [KEY=VALUE ...]`."""
    parser = argparse.ArgumentParser(
        description="Give every sample of shards a number, and write the numbers as a column beside each shard, "
        "SHARD.NAME.arrow: float32, of all readable samples.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("scorer", help="similarity (a model's cosine), or one of a plugin")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the scorer, such as model=runs/clip")
    parser.add_argument("--name", default="", help="of the column (default: the scorer's); FOLDER/NAME writes it there")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    parser.add_argument("--batch", type=int, default=256, help="samples at a time (default 256)")
    parser.add_argument("--json", action="store_true", help="say what was made as one JSON object")
    parser.add_argument("--dry-run", action="store_true", help="open all and check the places, score and write nothing")
    args = parser.parse_intermixed_args(argv)
    tell(run(args), args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score and write; return the numbers of it, and `lines` that say them."""
    name, scorer, ledger = args.name or args.scorer, _scorer(args.scorer, args.settings), Ledger()
    captions = [args.caption] if "texts" in scorer.needs else []
    images, beside = (scorer.members, scorer.beside) if "images" in scorer.needs else ((), ())
    shards = Shards(open_indices(expand(args.shards)), extensions(captions), beside, ledger, images)
    absent.check([shards], {"--caption": captions})
    columns.check(shards.indices, name)  # before hours of work
    facts = {"scorer": args.scorer, "caption": ", ".join(captions), **redact_tree(dict(scorer.made()))}
    for index in shards.indices:
        columns.refuse_others(index, name, facts)
    told = {"column": name, "scorer": args.scorer, "samples": len(shards), "shards": len(shards.indices)}
    if args.dry_run:
        line = f"{len(shards):,} samples would be scored, and {len(shards.indices)} files {name} written"
        return {**told, "dry_run": True, "lines": [line]}
    work = Scoring(scorer, shards, Chooser({args.caption: 1.0}) if captions else None, args.batch, ledger)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        bar = bars.add_task("scoring", total=len(shards))
        new = [work.column(which, name, facts, lambda n: bars.advance(bar, n)) for which in range(told["shards"])]
    return {**told, "dry_run": False, "made": sum(new), **_summary(shards, name, sum(new), ledger)}


def _scorer(key: str, settings: list[str]) -> scorers.Scorer:
    """Return the scorer with its settings, KEY=VALUE. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for text in settings:
        tree = merge(tree, parse_override(text, scorers.catalogue().get(key)))
    return scorers.build(key, tree)


def _summary(shards: Shards, name: str, new: int, ledger: Ledger) -> dict[str, Any]:
    """Return how the scores of all shards are spread, those that were there before among them."""
    values = np.concatenate([np.asarray(columns.open_column(index, name)[1]) for index in shards.indices])
    good = values[np.isfinite(values)].astype(np.float64)
    spread = np.percentile(good, PERCENTILES).tolist() if len(good) else []
    low, p5, middle, p95, high = spread or [float("nan")] * 5
    mean = float(good.mean()) if len(good) else None
    lines = [f"{name}: {len(good):,} of {len(values):,} samples have a score; {new} files written"]
    lines += [f"  {low:.4f} to {high:.4f}, middle 90 %: {p5:.4f} {middle:.4f} {p95:.4f}"] * bool(spread)
    lines += [f"  {line}" for line in ledger.lines(met="without a score")]
    return {"scored": len(good), "mean": mean, "percentiles": spread, "faults": dict(ledger.counts), "lines": lines}
