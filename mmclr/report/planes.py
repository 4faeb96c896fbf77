"""Charts of two dimensions: points with names, and a matrix as a map of heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from mmclr.report.charts import figure
from mmclr.report.scale import Axis, label

SIDE = 380  # of the drawing, in its own units
GAP = 4  # between names and cells


def scatter(title: str, groups: Mapping[str, Sequence[Sequence[object]]], *, note: str = "") -> str:
    """Draw {group: [[x, y, name], ...]} on equal axes; the names show under the pointer."""
    points = [point for group in groups.values() for point in group]
    x, y = (Axis.of([float(p[i]) for p in points], 8, SIDE - 8, pad=0.02) for i in (0, 1))  # type: ignore[arg-type]
    half = max(x.high - x.low, y.high - y.low) / 2
    x, y = (Axis((a.low + a.high) / 2 - half, (a.low + a.high) / 2 + half, a.start, a.end) for a in (x, y))
    dots = "".join(
        f'<circle class="c{number % 6}" cx="{x(float(px))}" cy="{SIDE - y(float(py))}" r="3">'  # type: ignore[arg-type]
        f"<title>{escape(str(name))}</title></circle>"
        for number, group in enumerate(groups.values())
        for px, py, name in group
    )
    return figure(title, f'<g class="dots">{dots}</g>', note, list(groups), size=(SIDE, SIDE))


def heatmap(title: str, matrix: Sequence[Sequence[float]], names: Sequence[str], *, note: str = "") -> str:
    """Draw a matrix, each row as shares of its sum; the numbers show under the pointer."""
    cell = max(6.0, min(26.0, 620 / len(names)))
    room = min(150.0, 6.2 * max(map(len, names)) + 8)
    parts = []
    for i, (row, name) in enumerate(zip(matrix, names)):
        at, total = room + i * cell, sum(row) or 1
        parts.append(f'<text x="{room - GAP}" y="{at + cell * 0.75:.1f}" text-anchor="end">{_cut(name)}</text>')
        turned = f'transform="translate({at + cell * 0.75:.1f} {room - GAP}) rotate(-90)"'
        parts.append(f"<text {turned}>{_cut(name)}</text>")
        for j, value in enumerate(row):
            if value:
                hint = f"{name} → {names[j]}: {value:g} of {total:g}"
                kind = "own" if i == j else "other"
                parts.append(
                    f'<rect class="{kind}" x="{room + j * cell:.1f}" y="{at:.1f}" width="{cell - 0.6:.1f}" '
                    f'height="{cell - 0.6:.1f}" fill-opacity="{0.08 + 0.92 * value / total:.3f}">'
                    f"<title>{escape(hint)}</title></rect>"
                )
    side = room + cell * len(names) + 4
    return figure(title, f'<g class="heat">{"".join(parts)}</g>', note, [], size=(side, side))


def forest(title: str, rows: Sequence[tuple[str, float, Sequence[float] | None]], *, note: str = "") -> str:
    """Draw differences with their intervals as bars beside a line at 0: (name, difference, [low, high])."""
    height, room, width = 24, 230, 700
    ends = [0.0, *(v for _, d, i in rows for v in (d, *(i or ())))]
    x = Axis.of(ends, room, width - 12)
    parts = [f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{height * len(rows)}"/>']
    for number, (name, difference, interval) in enumerate(rows):
        y = height * number + height / 2
        low, high = interval or (difference, difference)
        kind = "better" if low > 0 else "worse" if high < 0 else "open"
        hint = f"{name}: {difference:+.4f} ({low:+.4f} to {high:+.4f})"
        parts.append(
            f'<g class="{kind}"><text x="{room - 8}" y="{y + 4}" text-anchor="end">{escape(name[-34:])}</text>'
            f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/><circle cx="{x(difference)}" cy="{y}" r="4"/>'
            f"<title>{escape(hint)}</title></g>"
        )
    for tick in x.ticks(5):
        at = height * len(rows) + 14
        parts.append(f'<text class="tick" x="{x(tick)}" y="{at}" text-anchor="middle">{label(tick)}</text>')
    size = (width, height * len(rows) + 22)
    return figure(title, f'<g class="forest">{"".join(parts)}</g>', note, [], size=size)


def _cut(name: str) -> str:
    return escape(name if len(name) <= 22 else name[:21] + "…")
