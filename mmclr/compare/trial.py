"""One run of a comparison: a config, a seed, a budget; trained in a process of its own, then evaluated."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmclr import plugins
from mmclr.compare.measure import Measure
from mmclr.config import load
from mmclr.display.secrets import redact_tree
from mmclr.errors import UserError
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.result import Result
from mmclr.report.curves import read
from mmclr.storage import written
from mmclr.train.run import RunConfig

OPTIONS = "options of a measure"
PROBE = 30  # steps that tell how fast a config is, for budgets in minutes


@dataclass(frozen=True)
class Budget:
    """The budget of every run of a comparison."""

    kind: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read KIND=N."""
        kind, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = 0.0
        if kind not in ("samples", "steps", "minutes") or value <= 0:
            raise UserError(f"--budget {text}: write samples=N, steps=N or minutes=N, N above 0")
        return cls(kind, value)


@dataclass(frozen=True)
class Trial:
    """One config with one seed. `folder` keeps the run and its results, so nothing is done twice."""

    name: str
    config: Path
    seed: int
    folder: Path
    budget: Budget
    overrides: tuple[str, ...]
    head: str = ""  # objective behind whose head it is evaluated

    def run(self, measures: Sequence[Measure]) -> str | None:
        """Train and evaluate, unless that is done; return what went wrong, if anything did."""
        try:
            self._train()
            self._evaluate(measures)
        except UserError as error:
            return str(error)
        return None

    def check(self) -> RunConfig:
        """Return the config with the overrides, of one step's length; raises ConfigError."""
        return load(RunConfig, self.config, [*self.overrides, "steps=1", "epochs=null", "samples=null"])

    def result(self, measure: str) -> Result | None:
        """Return the result of a measure, None where it failed."""
        path = self._place(measure)
        return Result.load(path) if path.is_file() else None

    def _place(self, measure: str) -> Path:
        return self.folder / ("eval" + f"-{self.head}" * bool(self.head)) / f"{measure}.json"

    def log(self) -> list[dict[str, Any]]:
        """The rows of the training's log."""
        path = self.folder / "log.jsonl"
        return [row for row in read(path) if "loss" in row] if path.is_file() else []

    def terms(self) -> dict[str, tuple[float, float]]:
        """The mean of each objective over the first and over the last tenth of the logged steps, before weighting."""
        rows, found = self.log(), {}
        for name in self.check().objectives:
            values = [row[name] for row in rows if row.get(name) is not None]
            tenth = math.ceil(len(values) / 10)
            if values:
                found[name] = (statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:]))
        return found

    def samples_per_second(self) -> float | None:
        """The median over the training."""
        rates = [row["samples_per_s"] for row in self.log()[2:]]
        return statistics.median(rates) if rates else None

    def _length(self) -> list[str]:
        amount = self.budget.amount
        if self.budget.kind == "minutes":
            return [f"steps={self._steps_in(60 * amount)}", "epochs=null", "samples=null"]
        others = {"samples", "steps", "epochs"} - {self.budget.kind}
        return [f"{self.budget.kind}={round(amount)}", *(f"{other}=null" for other in sorted(others))]

    def _steps_in(self, seconds: float) -> int:
        """Measure the speed in a short run, and return the steps that fit."""
        probe = self.folder / "probe"
        self._process([f"out={probe}", f"steps={PROBE}", "epochs=null", "samples=null", "log_every=1"])
        rates = [row["samples_per_s"] for row in read(probe / "log.jsonl")[PROBE // 3 :]]
        return max(1, round(seconds * statistics.median(rates) / self.check().data.batch))

    def _train(self) -> None:
        done = self.folder / "trained.json"
        wanted = redact_tree(
            {
                "budget": vars(self.budget),
                "overrides": list(self.overrides),
                "config": yaml.safe_load(self.config.read_text()),
            }
        )
        if done.is_file():
            if redact_tree(json.loads(done.read_text())) != wanted:
                raise UserError(
                    f"{self.folder}: holds a run of another config or budget; remove it, or name another --out"
                )
            return
        self._process([f"out={self.folder}", f"seed={self.seed}", *self._length()])
        written.write(done, json.dumps(wanted), "trained config")

    def _process(self, settings: list[str]) -> None:
        settings = [*settings, *plugins.handed_on(self.check().plugins)]
        command = [sys.executable, "-m", "mmclr.train", str(self.config), *self.overrides, *settings]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError("\n".join(done.stderr.strip().splitlines()[-5:]) or f"ended with status {done.returncode}")

    def _evaluate(self, measures: Sequence[Measure]) -> None:
        todo = [measure for measure in measures if not self._measured(measure)]
        embedder = Embedder.load(self.folder, head=self.head or "post") if todo else None
        for measure in todo:
            assert embedder is not None
            place = self._place(measure.name)
            measure.run(embedder).save(place)
            written.write(place.with_suffix(".options.json"), json.dumps(redact_tree(list(measure.options))), OPTIONS)

    def _measured(self, measure: Measure) -> bool:
        """Return whether its result is there. Raises UserError where that is of other options."""
        place = self._place(measure.name)
        told = place.with_suffix(".options.json")
        if not place.is_file():
            return False
        if told.is_file() and json.loads(told.read_text()) != redact_tree(list(measure.options)):
            raise UserError(f"{place}: is of other options of {measure.suite}; remove it, or name another --out")
        return True
