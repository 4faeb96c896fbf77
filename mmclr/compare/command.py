"""Train several configs on one budget, several seeds each, and say how surely one is better."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from mmclr.compare import standings
from mmclr.compare.measure import Measure
from mmclr.compare.trial import Budget, Trial
from mmclr.config import find
from mmclr.display.console import Console
from mmclr.errors import UserError
from mmclr.report import page
from mmclr.storage import written

EXAMPLES = """examples:
  mmclr compare base.yaml siglip.yaml --budget samples=200000 --test 'shards/test-*.tar' 'data.train=shards/train-*.tar'
  mmclr compare papers/clip.yaml configs/papers/*.yaml --budget minutes=3 --seeds 3 --test ... --out runs/papers
  mmclr compare clip.yaml susana.yaml --test ... --suite 'knn: --train train.tar --label cls' --metric knn1_acc1
A comparison that was stopped goes on where it was when the same command is given again.
"""
KIND = "comparison of configs"


def main(argv: list[str]) -> int:
    """Train, evaluate, compare, write the table and the page."""
    args = _parser().parse_intermixed_args(argv)
    overrides = tuple(text for text in args.configs if "=" in text)
    names = _names(list(dict.fromkeys(find(text).resolve() for text in args.configs if "=" not in text)))
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: at least one run of each config is needed")
    budget, heads = Budget.parse(args.budget), _heads(args.head, list(names.values()))
    for name in ("compare.json", "compare.md"):
        written.check(args.out / name, KIND)
    written.check(args.out / "compare.html", page.KIND)
    measures = _measures(args)
    for measure in measures:
        measure.check()
    trials = [
        Trial(name, config, seed, args.out / name / f"seed-{seed}", budget, overrides, heads.get(name, ""))
        for seed in range(args.seeds)  # seed by seed, so that a comparison stopped early is still a fair one
        for config, name in names.items()
    ]
    console = Console()
    _run(trials, measures, console)
    table = standings.Standings.of(trials, args.metric, [measure.name for measure in measures])
    table.show(console)
    written.write(args.out / "compare.json", json.dumps(table.to_dict(), indent=2) + "\n", KIND)
    written.write(args.out / "compare.md", table.to_markdown(), KIND)
    console.print(f"written: {table.page().save(args.out / 'compare.html')}, compare.json, compare.md", soft_wrap=True)
    return 1 if table.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train several configs on one budget, several seeds each; print a table with confidence intervals "
        "and paired differences to the first config, and write a page with the curves.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG|key=value",
        help="configs, the first is what the others are compared with; key=value applies to all",
    )
    parser.add_argument(
        "--budget",
        default="samples=100000",
        metavar="KIND=N",
        help="what every run gets: samples=N, steps=N or minutes=N (default samples=100000)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each config (default 3)")
    parser.add_argument("--test", required=True, metavar="SHARDS", help="what the models are evaluated on")
    parser.add_argument("--relation", default="pair", choices=["pair", "caption"], help="as in mmclr eval retrieval")
    parser.add_argument("--label", default="", metavar="FIELD", help="also classify by this field (cls, json:FIELD)")
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME[:OPTIONS]",
        help="also evaluate by this suite, with options of `mmclr eval NAME`; --data is --test unless given (may be "
        "repeated)",
    )
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="CONFIG=OBJECTIVE",
        help="evaluate the config's runs behind the head with which they trained that objective (may be repeated)",
    )
    parser.add_argument(
        "--metric",
        default="image_retrieval_recall@10",
        help="what the table is sorted by; with a - before it, lower is better",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (default runs/compare)")
    return parser


def _measures(args: argparse.Namespace) -> list[Measure]:
    """Return what every run is evaluated by: retrieval, classification if a label is named, and each --suite."""
    wanted = [f"retrieval: --relation {args.relation}"]
    wanted += [f"zero_shot: --label {shlex.quote(args.label)}"] if args.label else []
    measures: list[Measure] = []
    for text in [*wanted, *args.suite]:
        measures.append(Measure.parse(text, args.test, [measure.name for measure in measures]))
    return measures


def _run(trials: list[Trial], measures: list[Measure], console: Console) -> None:
    """Run all trials; what goes wrong is said, and ends everything in the first alone."""
    for number, trial in enumerate(trials):
        console.print(f"{number + 1}/{len(trials)} {trial.name}, seed {trial.seed}", style="bold")
        if fault := trial.run(measures):
            if trial is trials[0]:
                raise UserError(f"{trial.name}, with which the others are compared: {fault}")
            console.print(f"  failed: {fault}", soft_wrap=True)


def _heads(given: list[str], names: list[str]) -> dict[str, str]:
    """Return the objectives of --head by config."""
    heads = {name: objective for name, _, objective in (text.partition("=") for text in given)}
    for name, objective in heads.items():
        if name not in names or not objective:
            raise UserError(f"--head {name}: write CONFIG=OBJECTIVE, CONFIG one of {', '.join(names)}")
    return heads


def _names(configs: list[Path]) -> dict[Path, str]:
    """Return a short name of each config, longer where two have the same."""
    if not configs:
        raise UserError("name at least one config")
    short = [path.stem for path in configs]
    return {p: p.stem if short.count(p.stem) == 1 else "-".join(p.with_suffix("").parts[-2:]) for p in configs}
