"""Charts of two dimensions: points with names, and a matrix as a map of heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from mmclr.display.html import render
from mmclr.report.axis import Axis, label
from mmclr.report.charts import figure

SIDE = 380  # of the drawing, in its own units
GAP = 4  # between names and cells


def scatter(title: str, groups: Mapping[str, Sequence[Sequence[object]]], *, note: str = "") -> Markup:
    """Draw {group: [[x, y, name], ...]} on equal axes; the names show under the pointer."""
    points = [point for group in groups.values() for point in group]
    x, y = (Axis.of([float(p[i]) for p in points], 8, SIDE - 8, pad=0.02) for i in (0, 1))  # type: ignore[arg-type]
    half = max(x.high - x.low, y.high - y.low) / 2
    x, y = (Axis((a.low + a.high) / 2 - half, (a.low + a.high) / 2 + half, a.start, a.end) for a in (x, y))
    dots = [
        (number % 6, x(float(px)), SIDE - y(float(py)), str(name))  # type: ignore[arg-type]
        for number, group in enumerate(groups.values())
        for px, py, name in group
    ]
    return figure(title, render("scatter.svg", dots=dots), note, list(groups), size=(SIDE, SIDE))


def heatmap(
    title: str, matrix: Sequence[Sequence[float]], names: Sequence[str], *, note: str = "", shares: bool = True
) -> Markup:
    """Draw a matrix; the numbers show under the pointer.

    Its rows are drawn as shares of their sums, or without `shares` its numbers between the least and the largest that
    are off the diagonal.
    """
    others = [value for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j] or [0.0]
    low, span = min(others), (max(others) - min(others)) or 1.0
    cell = max(6.0, min(26.0, 620 / len(names)))
    room = min(150.0, 6.2 * max(map(len, names)) + 8)
    rows = []
    for i, (row, name) in enumerate(zip(matrix, names)):
        at, total = room + i * cell, sum(row) or 1
        cells = [
            {
                "kind": "own" if i == j else "other",
                "x": f"{room + j * cell:.1f}",
                "shade": f"{0.08 + 0.92 * (value / total if shares else min(1.0, max(0.0, (value - low) / span))):.3f}",
                "hint": f"{name} → {names[j]}: {value:g}" + (f" of {total:g}" if shares else ""),
            }
            for j, value in enumerate(row)
            if value
        ]
        rows.append({"name": _cut(name), "y": f"{at:.1f}", "middle": f"{at + cell * 0.75:.1f}", "cells": cells})
    drawing = render("heatmap.svg", rows=rows, edge=room - GAP, side=f"{cell - 0.6:.1f}")
    side = room + cell * len(names) + 4
    return figure(title, drawing, note, [], size=(side, side))


def forest(title: str, rows: Sequence[tuple[str, float, Sequence[float] | None]], *, note: str = "") -> Markup:
    """Draw differences with their intervals as bars beside a line at 0: (name, difference, [low, high])."""
    height, room, width = 24, 230, 700
    ends = [0.0, *(v for _, d, i in rows for v in (d, *(i or ())))]
    x = Axis.of(ends, room, width - 12)
    drawn = []
    for number, (name, difference, interval) in enumerate(rows):
        low, high = interval or (difference, difference)
        drawn.append(
            {
                "kind": "better" if low > 0 else "worse" if high < 0 else "open",
                "name": name[-34:],
                "hint": f"{name}: {difference:+.4f} ({low:+.4f} to {high:+.4f})",
                "y": height * number + height / 2,
                **{"low": x(low), "at": x(difference), "high": x(high)},
            }
        )
    bottom = height * len(rows)
    ticks = [{"at": x(tick), "label": label(tick)} for tick in x.ticks(5)]
    drawing = render("forest.svg", zero=x(0), bottom=bottom, rows=drawn, edge=room - 8, ticks=ticks)
    return figure(title, drawing, note, [], size=(width, bottom + 22))


def _cut(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
