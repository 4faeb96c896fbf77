"""The curves of a training, from its JSONL log: one panel per quantity, with the threshold that matters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclr.errors import UserError
from mmclr.report import charts


@dataclass(frozen=True)
class Panel:
    """How one logged quantity is drawn."""

    title: str
    note: str = ""
    log: bool = False
    smooth: int = 0  # points to either side
    limits: Mapping[str, float] | None = None


PANELS = {
    "loss": Panel("loss", smooth=6),
    "scale": Panel("scale (inverse temperature)", "A scale that sits at its clamp wants a lower weight decay or rate."),
    "lr": Panel("learning rate"),
    "grad_norm": Panel(
        "gradient norm", "Spikes say that the rate is too high or the data are broken.", log=True, smooth=6
    ),
    "samples_per_s": Panel("samples per second", smooth=6),
    "data_wait": Panel(
        "share of time waiting for data",
        "Above 0.1 the loader is the bottleneck: more workers, or smaller pictures in the shards.",
        smooth=6,
        limits={"0.1": 0.1},
    ),
}


def draw(log: str | Path | Iterable[Mapping[str, Any]], limits: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Draw a log (a JSONL file, or its records): the panels above first, then every other number that moves.

    `limits` adds named horizontal lines to a panel: {"loss": {"chance": 5.5}}.
    """
    records = read(log) if isinstance(log, (str, Path)) else list(log)
    series = _series(records)
    figures = []
    for name in [*(n for n in PANELS if n in series), *(n for n in series if n not in PANELS)]:
        panel = PANELS.get(name, Panel(name))
        lines = {**(panel.limits or {}), **(limits or {}).get(name, {})}
        xs, ys = series[name]
        figures.append(
            charts.lines(panel.title, {name: (xs, ys)}, note=panel.note, log=panel.log, smooth=panel.smooth,
                         limits=lines)
        )  # fmt: skip
    return f'<div class="charts">{"".join(figures)}</div>'


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL log; a last line that a killed run left half-written is dropped."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such log") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} is not JSON ({error})") from None
    return records


def _series(records: list[Any]) -> dict[str, tuple[list[float], list[float]]]:
    """Collect each number against its step; a resumed run's later line replaces the earlier one."""
    found: dict[str, dict[float, float]] = {}
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("step"), (int, float)):
            continue
        for name, value in _flat(record):
            if name != "step":
                found.setdefault(name, {})[record["step"]] = value
    ordered = {name: sorted(points.items()) for name, points in found.items()}
    return {
        name: ([x for x, _ in points], [y for _, y in points])
        for name, points in ordered.items()
        if len(points) > 1 and len({y for _, y in points}) > 1
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is None and prefix + name in PANELS:
            yield prefix + name, math.nan
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, float(value)
