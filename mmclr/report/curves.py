"""The curves of a training, from its JSONL log."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmclr.display.html import render
from mmclr.errors import UserError
from mmclr.report import charts
from mmclr.report.panels import TRAINING, Panel, arrange

Limits = Mapping[str, Mapping[str, float]]
MAY_BREAK = {name for panel in TRAINING for name in panel.names}  # null there is a value that was not finite


def draw(log: str | Path | Iterable[Mapping[str, Any]], limits: Limits | None = None) -> dict[str, Markup]:
    """Draw a log (a JSONL file, or its records): sections of charts by title, in all every number that moves.

    `limits` adds named horizontal lines to a quantity's panel: {"loss": {"chance": 5.5}}.
    """
    series = _series(read(log) if isinstance(log, (str, Path)) else list(log))
    only_term = [name for name in series if name != "loss" and series[name] == series.get("loss")]
    for name in only_term:  # says the same twice
        del series[name]
    return {
        title: render("charts.html", figures=[_chart(panel, series, limits or {}) for panel in panels])
        for title, panels in arrange(series).items()
    }


def _chart(panel: Panel, series: Mapping[str, tuple[list[float], list[float]]], limits: Limits) -> Markup:
    own = {label: at for name in panel.names for label, at in limits.get(name, {}).items()}
    return charts.lines(
        panel.title,
        {legend: series[name] for name, legend in panel.names.items()},
        note=panel.note,
        log=panel.log,
        smooth=panel.smooth,
        limits={**panel.limits, **own},
    )


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
        elif value is None and prefix + name in MAY_BREAK:
            yield prefix + name, math.nan
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, float(value)
