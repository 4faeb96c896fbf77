"""Compare two models on the same samples: paired differences, their intervals and tests.

Pairing removes what makes samples easy or hard. The difference of a metric is a mean of differences of what each
sample contributed, so its interval follows from their spread (clusters and classes as in the metric's own interval).
Where all contributions are 0 or 1, McNemar's exact test stands beside it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from rich import box
from rich.table import Table

from mmclr.display.console import Console
from mmclr.display.html import markdown
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.storage import written

COLUMNS = ("dataset", "task", "model", "metric", "first", "second", "difference", "low", "high", "p", "p_mcnemar", "n")
KIND = "comparison of results"


@dataclass(frozen=True)
class Difference:
    """The second model's metric less the first's, with a 95 % interval and two-sided p values."""

    metric: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    p_mcnemar: float | None
    n: int


def compare(first: Result, second: Result) -> list[Difference]:
    """Return the differences of all metrics whose samples both results kept."""
    _same_set(first, second)
    shared = [name for name in first.measurements if name in second.measurements]
    if not shared:
        raise UserError(
            f"{first.model} and {second.model}: no samples are kept of both; results of `mmclr eval ... --out FILE` "
            "have them in FILE's .samples.npz"
        )
    return [_difference(name, first.measurements[name], second.measurements[name]) for name in shared]


def _difference(name: str, one: Measurement, two: Measurement) -> Difference:
    if len(one.values) != len(two.values):
        raise UserError(f"{name}: {len(one.values)} samples in one result and {len(two.values)} in the other")
    paired = Measurement(two.values - one.values, one.clusters, one.strata, one.unit, share=False)
    spread, difference = paired.variance(), float(paired.mean or 0.0)
    p = math.erfc(abs(difference) / math.sqrt(2 * spread)) if spread > 0 else (1.0 if difference == 0 else None)
    binary = one.clusters is None and one.strata is None and all(np.isin(m.values, (0, 1)).all() for m in (one, two))
    mcnemar = _mcnemar(paired.values) if binary else None
    return Difference(name, one.mean or 0.0, two.mean or 0.0, difference, paired.interval(), p, mcnemar, paired.n)


def _mcnemar(differences: np.ndarray) -> float:
    """Two-sided exact p of as many wins among the samples on which the models disagree (McNemar 1947)."""
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    n, k = wins + losses, min(wins, losses)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def _same_set(first: Result, second: Result) -> None:
    for key in ("images", "annotations"):
        one, two = first.hashes.get(key), second.hashes.get(key)
        if one != two:
            raise UserError(
                f"{first.dataset} and {second.dataset}: the two results have other {key} ({one} and {two}); only "
                "results on one set can be paired"
            )
    if first.task != second.task:
        raise UserError(f"{first.task} and {second.task} are two tasks; compare results of one")


def table_of(results: Sequence[Result]) -> list[list[object]]:
    """Return rows of COLUMNS: every result against the first."""
    first = results[0]
    rows: list[list[object]] = []
    for second in results[1:]:
        for d in compare(first, second):
            low, high = d.interval or (None, None)
            numbers = [d.first, d.second, d.difference, low, high, d.p, d.p_mcnemar, d.n]
            rows.append([second.dataset, second.task, second.model, d.metric, *numbers])
    return rows


def to_csv(rows: Sequence[Sequence[object]]) -> str:
    """Return rows of COLUMNS as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    return out.getvalue()


def to_markdown(rows: Sequence[Sequence[object]]) -> str:
    """Return rows of COLUMNS as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([markdown(_text(value)) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_json(rows: Sequence[Sequence[object]], first: str) -> str:
    """Return rows of COLUMNS as JSON, with the model that the others are compared with."""
    return json.dumps({"compared_with": first, "differences": [dict(zip(COLUMNS, row)) for row in rows]}, indent=2)


def show(rows: Sequence[Sequence[object]], console: Console) -> None:
    """Print the table; a difference whose interval does not hold 0 is set in bold."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("metric", overflow="fold", min_width=10)
    for name in ("first", "second", "change", "95 %", "p", "exact"):  # 80 characters hold them
        table.add_column(name, no_wrap=True, justify="left" if name == "95 %" else "right")
    cells: Sequence[Sequence[Any]] = rows
    for _, _, _, metric, first, second, difference, low, high, p, p_mcnemar, _ in cells:
        clear = low is not None and high is not None and not low <= 0 <= high
        table.add_row(
            str(metric),
            f"{first:.3f}",
            f"{second:.3f}",
            f"{difference:+.3f}",
            "" if low is None else f"{low:+.3f}..{high:+.3f}",
            *("" if value is None else "<.001" if value < 0.001 else f"{value:.3f}" for value in (p, p_mcnemar)),
            style="bold" if clear else "",
        )
    console.print(table)


def _text(value: object) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def main(argv: list[str]) -> None:
    """Compare results pair by pair."""
    parser = argparse.ArgumentParser(
        "mmclr eval compare", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", nargs="+", metavar="RESULT.json", help="the first is what the others are compared with"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, which `mmclr report` draws")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    args = parser.parse_intermixed_args(argv)
    if len(args.results) < 2:
        raise UserError("name two results or more")
    for path in filter(None, (args.out, args.csv, args.markdown)):
        written.check(path, KIND)
    results = [Result.load(path) for path in args.results]
    say(f"first : {results[0].model}")
    rows = []
    for second in results[1:]:
        table = table_of([results[0], second])
        say(f"second: {second.model}, n = {', '.join(str(n) for n in dict.fromkeys(row[-1] for row in table))}")
        show(table, Console())
        rows += table
    for path, text in (
        (args.out, to_json(rows, results[0].model)),
        (args.csv, to_csv(rows)),
        (args.markdown, to_markdown(rows)),
    ):
        if path:
            written.write(path, text, KIND)
            say(f"written: {path}")


EXAMPLES = """examples:
  mmclr eval compare a.json b.json                      p: normal test of the paired difference; exact: McNemar's
  mmclr eval compare base.json new.json newer.json --markdown table.md --csv table.csv
"""
