"""The standings: means with intervals over seeds, and paired differences to the first config.

An interval says how much the mean over seeds would move with other seeds and other test samples: the variance
between seeds (which holds both, as far as samples act on single seeds) over their number, and never less than the
variance that the test samples alone give. With one seed it is the samples' alone, and says so.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from scipy import stats

from mmclr.compare.trial import Trial
from mmclr.display.console import Console
from mmclr.display.html import markdown
from mmclr.errors import UserError
from mmclr.eval.commands.compare import compare
from mmclr.eval.result import Result
from mmclr.report import Page, charts

COLUMNS = (
    "config", "value", "low", "high", "difference", "from", "to", "detectable", "clear", "time", "final loss", "seeds",
)  # fmt: skip
TERMS = ("config", "objective", "first", "last", "fell")


@dataclass
class Row:
    """One config."""

    name: str
    mean: float
    interval: tuple[float, float]
    difference: float | None = None  # to the first config, seed by seed
    difference_interval: tuple[float, float] | None = None
    time: float | None = None  # per sample, as a multiple of the first config's
    loss: float | None = None
    seeds: int = 0
    lower: bool = False  # is better
    others: dict[str, float] = field(default_factory=dict)  # means of every other metric
    terms: dict[str, tuple[float, float]] = field(default_factory=dict)  # each objective, at first and at last

    @property
    def clear(self) -> bool:
        """Whether the difference's interval leaves 0 out."""
        return (
            self.difference_interval is not None and not self.difference_interval[0] <= 0 <= self.difference_interval[1]
        )

    @property
    def detectable(self) -> float | None:
        """Return the smallest difference that these seeds and samples could have told from 0."""
        return (
            None
            if self.difference_interval is None
            else (self.difference_interval[1] - self.difference_interval[0]) / 2
        )

    def cells(self) -> list[Any]:
        """Return the values of COLUMNS."""
        low, high = self.difference_interval or (None, None)
        mark = {True: "worse" if self.lower == ((self.difference or 0) > 0) else "better", False: ""}[self.clear]
        return [
            self.name,
            self.mean,
            *self.interval,
            self.difference,
            low,
            high,
            self.detectable,
            mark,
            self.time,
            self.loss,
            self.seeds,
        ]


@dataclass
class Standings:
    """The rows, best first below the baseline; what failed; the curves."""

    metric: str
    rows: list[Row]
    failed: dict[str, list[int]]  # seeds without a result, by config
    curves: dict[str, tuple[list[float], list[float]]]

    @classmethod
    def of(cls, trials: Sequence[Trial], metric: str, measures: Sequence[str] = ("retrieval",)) -> Standings:
        """Collect what the trials have of all measures. `metric` sorts them; with a - before it, the lowest is best."""
        names, lower, metric = list(dict.fromkeys(t.name for t in trials)), metric[:1] == "-", metric.removeprefix("-")
        results = {
            name: {t.seed: r for t in trials if t.name == name and (r := _merged(t, measures))} for name in names
        }
        missing = {name: [t.seed for t in trials if t.name == name and t.seed not in results[name]] for name in names}
        base = names[0]
        if not results[base]:
            raise UserError(f"{base}, with which the others are compared, has no result")
        known = next(iter(results[base].values())).metrics
        if metric not in known:
            raise UserError(f"--metric {metric}: there is only {', '.join(known)}")
        rows = [
            _row(name, own, results[base], metric, [t for t in trials if t.name == name and t.seed in own])
            for name, own in results.items()
            if own
        ]
        first = rows[0].time
        for row in rows:
            row.time, row.lower = first / row.time if first and row.time else None, lower
        curves = {t.name: _curve(t) for t in reversed(trials) if t.seed in results[t.name]}
        failed = {name: seeds for name, seeds in missing.items() if seeds}
        return cls(
            metric, [rows[0], *sorted(rows[1:], key=lambda row: row.mean if lower else -row.mean)], failed, curves
        )

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(
            title=f"{self.metric}; differences to {self.rows[0].name}, 95 % intervals",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
            title_justify="left",
        )
        table.add_column("config", overflow="fold", min_width=10)
        for column in ("value", "interval", "change", "interval", "", "time"):  # 80 characters hold them
            table.add_column(column, no_wrap=True, justify="right" if column in ("value", "time") else "left")
        for row in self.rows:
            name, value, low, high, difference, start, end, _, mark, time, *_ = row.cells()
            table.add_row(
                name,
                f"{value:.3f}",
                f"{low:.3f}..{high:.3f}",
                f"{difference:+.3f}" if difference is not None else "",
                f"{start:+.3f}..{end:+.3f}" if start is not None else "",
                mark,
                f"{time:.2f}" if time else "",
                style="bold" if row.clear else "",
            )
        console.print(table)
        for text in self.faults():
            console.print(text)

    def faults(self) -> list[str]:
        """Return a sentence for each config of which runs failed."""
        has = {row.name: row.seeds for row in self.rows}
        told = {name: f"its row is of {has[name]} alone" if name in has else "it has no row" for name in self.failed}
        return [
            f"{name}: failed with seed {', '.join(map(str, seeds))}; {told[name]}"
            for name, seeds in self.failed.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what compare.json holds."""
        rows = [{**dict(zip(COLUMNS, row.cells())), "metrics": row.others, "terms": row.terms} for row in self.rows]
        return {"metric": self.metric, "rows": rows, "failed": self.failed}

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        parts = [(COLUMNS, [row.cells() for row in self.rows]), (TERMS, self._terms())]
        return "\n".join(
            [*(_markdown(columns, rows) for columns, rows in parts), *(f"- {markdown(x)}" for x in self.faults())]
        )

    def _terms(self) -> list[list[Any]]:
        """Return what each objective was over the first and over the last tenth of the training."""
        return [
            [row.name, name, first, last, "yes" if last < first else "no"]
            for row in self.rows
            for name, (first, last) in row.terms.items()
        ]

    def page(self) -> Page:
        """Return the page with table and curves."""
        page = Page("mmclr compare", f"{self.metric}; differences to {self.rows[0].name}")
        if self.failed:
            page.text("Failed", *self.faults())
        page.table(
            "Standings", COLUMNS, [row.cells() for row in self.rows], __doc__.split("\n\n")[1].replace("\n", " ")
        )
        others = list(self.rows[0].others)
        page.table(
            "Every metric", ["config", *others], [[r.name, *(r.others.get(m) for m in others)] for r in self.rows]
        )
        page.table("Every objective, over the first and the last tenth of the logged steps", TERMS, self._terms())
        figures = [
            charts.lines(f"loss of {name}", {name: curve}, smooth=6) for name, curve in self.curves.items() if curve[0]
        ]
        return page.charts("Training, the first seed", figures)


def _merged(trial: Trial, measures: Sequence[str]) -> Result | None:
    """Return one result with the metrics of all measures, None where one is missing.

    A metric that an earlier measure has, too, is called MEASURE/METRIC.
    """
    merged = trial.result(measures[0])
    for measure in measures[1:]:
        more = trial.result(measure)
        if merged is None or more is None:
            return None
        merged.hashes.update({f"{measure} {key}": value for key, value in more.hashes.items()})
        names = {name: f"{measure}/{name}" if name in merged.metrics else name for name in more.metrics}
        merged.metrics.update({names[name]: value for name, value in more.metrics.items()})
        merged.measurements.update({names[name]: value for name, value in more.measurements.items()})
    return merged


def _row(name: str, own: dict[int, Result], base: dict[int, Result], metric: str, trials: list[Trial]) -> Row:
    values = [_value(result, metric) for result in own.values()]
    samples = [m for r in own.values() if (m := r.measurements.get(metric))]
    widest = max((_half(m.interval()) for m in samples), default=0.0)
    row = Row(
        name, statistics.fmean(values), _interval(values, widest, all(m.share for m in samples) and samples != [])
    )
    row.seeds = len(values)
    shared = sorted(own.keys() & base.keys())
    if own is not base and shared:
        row.difference, row.difference_interval = _difference(own, base, metric, shared)
    rates = [rate for t in trials if (rate := t.samples_per_second())]
    row.time = statistics.median(rates) if rates else None
    losses = [rows[-1]["loss"] for t in trials if (rows := t.log())]
    row.loss = statistics.fmean(losses) if losses else None
    terms = [t.terms() for t in trials]
    row.terms = {
        name: tuple(statistics.fmean(own[name][end] for own in terms if name in own) for end in (0, 1))  # type: ignore
        for name in terms[0]
    }
    row.others = {m: statistics.fmean(_value(r, m) for r in own.values()) for m in next(iter(own.values())).metrics}
    return row


def _difference(
    own: dict[int, Result], base: dict[int, Result], metric: str, seeds: list[int]
) -> tuple[float, tuple[float, float] | None]:
    """Return the mean difference of the seeds that both have, and its interval.

    Samples are paired where the metric has them; of a number without samples there is only what seeds say, of one
    seed nothing.
    """
    if not all(metric in result.measurements for s in seeds for result in (own[s], base[s])):
        values = [_value(own[s], metric) - _value(base[s], metric) for s in seeds]
        return statistics.fmean(values), _interval(values, 0.0, shares=False) if len(values) > 1 else None
    pairs = [{d.metric: d for d in compare(_one(base[s], metric), _one(own[s], metric))}[metric] for s in seeds]
    half = statistics.fmean(_half(d.interval) for d in pairs)
    values = [d.difference for d in pairs]
    return statistics.fmean(values), _interval(values, half, shares=False)


def _value(result: Result, metric: str) -> float:
    return result.metrics.get(metric) or 0.0


def _half(interval: tuple[float, float] | None) -> float:
    return (interval[1] - interval[0]) / 2 if interval else 0.0


def _one(result: Result, metric: str) -> Result:
    return dataclasses.replace(result, measurements={metric: result.measurements[metric]})


def _interval(values: Sequence[float], samples: float, shares: bool = True) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values`, one a seed; one seed alone has the half width `samples`."""
    mean, n = statistics.fmean(values), len(values)
    # The test samples are the same for all seeds, so more seeds do not shrink what they give.
    seeds = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    half = max(float(seeds), samples)
    low, high = mean - half, mean + half
    return (max(0.0, low), min(1.0, high)) if shares else (low, high)


def _curve(trial: Trial) -> tuple[list[float], list[float]]:
    rows = trial.log()
    return [row["step"] for row in rows], [row["loss"] for row in rows]


def _markdown(columns: Sequence[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else markdown(value)
