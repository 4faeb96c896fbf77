"""What is learnt from the same images: mmclr's recipe for small data beside open_clip 3.3.0's own trainer.

    python benchmarks/quality.py [--train SHARDS --test SHARDS] [--seeds 3] [--samples 61440] [--out build/quality]

Same towers, same images, one thread each, seed by seed in turns. Three runs a seed: open_clip's trainer; ours on as
many samples; ours on as many samples as it trains in open_clip's time (the ratio of speeds is measured first, in short
runs in turns). All are evaluated by the same code on a style that no training saw. Ratios are of means over seeds;
their intervals come from drawing seeds and test samples again together. Hours of computing: a run that was stopped
goes on where it was. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip_trainer
import peers
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.result import Result
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import retrieval
from rich.console import Console

from mmclr.compare.standings import Standings
from mmclr.compare.trial import Budget, Trial
from mmclr.config import check, find
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.formats.open_clip import write_config

os.environ["OMP_NUM_THREADS"] = "1"  # of every process that is started here
BATCH, LABEL, NAME = 128, "json:subgroup", "json:name"
TOWERS = {
    "embed": 192,
    "image": {"size": 64, "patch": 8, "width": 192, "layers": 6, "heads": 3, "mlp": 768},
    "text": {"context": 32, "width": 192, "layers": 4, "heads": 3, "mlp": 768},
}
CLIP_WORDS = {"vocab": 49408, "bos": 49406, "eos": 49407, "pad": 49407}  # of the tokenizer that both use
THEIRS = write_config(
    check(ModelConfig, {**TOWERS, "text": {**TOWERS["text"], **CLIP_WORDS}}),  # type: ignore[dict-item]
    bias=False,
)["model_cfg"]
EPOCHS = 12  # of open_clip's trainer, whatever the number of samples
RECIPE = {"lr": 1e-3, "warmup": 40, "wd": 0.1}  # the anchor's, open_clip's best known here
SPEED_STEPS = 30  # of a run that tells how fast a trainer is


@dataclasses.dataclass(frozen=True)
class Ours(Trial):
    """mmclr with the recipe under test; also asked for images by their bare names."""

    def _evaluate(self, test: str, relation: str, label: str) -> None:
        super()._evaluate(test, relation, label)
        if self.result("names") is None:
            found = retrieval.run(Embedder.load(self.folder), open_set(test, caption=NAME), relation="caption")
            found.save(self.folder / "eval" / "names.json")


class Theirs(Ours):
    """open_clip with its own trainer, on the shards of its one override."""

    def _train(self) -> None:
        shards, done = self.overrides[0].removeprefix("data.train="), self.folder / "trained.json"
        wanted = {"shards": shards, "samples": self.budget.amount, "epochs": EPOCHS, "model": THEIRS, "recipe": RECIPE}
        if done.is_file():
            if json.loads(done.read_text()) != wanted:
                raise UserError(f"{self.folder}: holds another run of open_clip; remove it, or name another --out")
            return
        samples = round(self.budget.amount / EPOCHS)
        rows = open_clip_trainer.train(
            self.folder,
            THEIRS,
            shards,
            True,
            train_num_samples=samples,
            epochs=EPOCHS,
            batch_size=BATCH,
            seed=self.seed,
            **RECIPE,
        )
        lines = [{"step": round((n + 1) * self.budget.amount / BATCH / len(rows)), **row} for n, row in enumerate(rows)]
        (self.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        done.write_text(json.dumps(wanted))


def speeds(out: Path, train: str, config: Path, rounds: int = 3) -> float:
    """Our samples a second over theirs: the median of short runs in turns, which are kept like all others."""
    ratios, budget = [], Budget("samples", SPEED_STEPS * BATCH)
    for number in range(rounds):
        pair = (
            Theirs("open_clip", config, 0, out / f"speed/their-{number}", budget, settings(train)[:1]),
            Ours("mmclr", config, 0, out / f"speed/our-{number}", budget, settings(train)),
        )
        for trial in pair:
            trial._train()
        theirs, ours = (statistics.median(row["samples_per_s"] for row in t.log()[1:]) for t in pair)
        print(f"  open_clip {theirs:.1f} samples/s  mmclr {ours:.1f} samples/s")
        ratios.append(ours / theirs)
    return statistics.median(ratios)


def settings(train: str) -> tuple[str, ...]:
    """What our runs get beside their config."""
    model = [f"model.{part}.{k}={v}" for part in ("image", "text") for k, v in TOWERS[part].items()]
    return (
        f"data.train={train}",
        f"data.batch={BATCH}",
        "model.preset=null",
        f"model.embed={TOWERS['embed']}",
        *model,
        "log_every=10",
        "trackers=none",
        "save.every_minutes=0",
    )


def ratio(
    above: Sequence[Result], below: Sequence[Result], metric: str, draws: int = 4000
) -> tuple[float, float, float]:
    """Ratio of the means over seeds with its 95 % interval: seeds and samples (paired) drawn anew, percentiles."""
    a, b = (np.stack([r.measurements[metric].values for r in side]) for side in (above, below))
    rng = np.random.default_rng(0)
    found = np.empty(draws)
    for draw in range(draws):
        rows = [rng.integers(0, len(x), len(x)) for x in (a, b)]
        columns = rng.integers(0, a.shape[1], a.shape[1])
        found[draw] = a[rows[0]][:, columns].mean() / max(b[rows[1]][:, columns].mean(), 1e-9)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(a.mean() / b.mean()), float(low), float(high)


def main() -> None:
    """Train, evaluate, print the table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default=str(peers.PICTO / "train-{00000..00009}.tar"))
    parser.add_argument("--test", default=str(peers.PICTO / "test-{00000..00003}.tar"))
    parser.add_argument("--config", default="small_data.yaml", help="our recipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=12 * 5120)
    parser.add_argument("--out", type=Path, default=peers.ROOT / "build" / "quality")
    args = parser.parse_args()
    console, config = Console(width=150), find(args.config)
    faster = speeds(args.out, args.train, config)
    print(f"mmclr trains {faster:.2f} samples in the time in which open_clip trains one")
    budgets = {"mmclr, equal samples": args.samples, "mmclr, equal time": round(args.samples * faster)}
    trials: list[Trial] = []
    for seed in range(args.seeds):
        folder = args.out / "open_clip" / f"seed-{seed}"
        trials.append(
            Theirs("open_clip", config, seed, folder, Budget("samples", args.samples), settings(args.train)[:1])
        )
        for name, samples in budgets.items():
            folder = args.out / name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
            trials.append(Ours(name, config, seed, folder, Budget("samples", samples), settings(args.train)))
    for number, trial in enumerate(trials):
        console.print(f"{number + 1}/{len(trials)} {trial.name}, seed {trial.seed}", highlight=False)
        if fault := trial.run(args.test, "pair", LABEL):
            raise SystemExit(f"{trial.name}, seed {trial.seed}: {fault}")
    report(trials, console, args.out, faster)


def report(trials: Sequence[Trial], console: Console, out: Path, faster: float) -> None:
    """Print and write everything."""
    for metric in ("image_retrieval_recall@10", "image_retrieval_recall@1", "acc1"):
        table = Standings.of(trials, metric)
        table.show(console)
    table = Standings.of(trials, "image_retrieval_recall@10")
    (out / "compare.md").write_text(table.to_markdown())
    console.print(f"written: {table.page().save(out / 'compare.html')}")
    found: dict[str, Any] = {"speed": round(faster, 3)}
    wanted = (
        ("quality_equal_samples", "mmclr, equal samples", "retrieval", "image_retrieval_recall@10"),
        ("quality_equal_time", "mmclr, equal time", "retrieval", "image_retrieval_recall@10"),
        ("zero_shot_ratio", "mmclr, equal time", "zero_shot", "acc1"),
        ("names_equal_time", "mmclr, equal time", "names", "image_retrieval_recall@10"),
    )
    for key, name, suite, metric in wanted:
        sides = [[r for t in trials if t.name == who and (r := t.result(suite))] for who in (name, "open_clip")]
        value, low, high = ratio(*sides, metric)
        found |= {key: round(value, 3), f"{key}_interval": [round(low, 3), round(high, 3)]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
