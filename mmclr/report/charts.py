"""Inline SVG charts that read without JavaScript, and answer to the pointer with it (script.js)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from mmclr.report.scale import Axis, label

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 372, 12, 196
POINTS = 400  # of a curve that are kept: more than the pixels of its chart
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def lines(
    title: str,
    series: Series,
    *,
    note: str = "",
    log: bool = False,
    smooth: int = 0,
    limits: Mapping[str, float] | None = None,
    x_name: str = "step",
    x_log: bool = False,
) -> str:
    """Draw {name: (xs, ys)} as curves; `limits` are named horizontal lines, `log` and `x_log` logarithmic axes.

    With `smooth`, the mean over so many points to either side is drawn, and the raw values stay visible behind it.
    """
    thin = {name: _thin(*curve) for name, curve in series.items()}
    x = Axis.of([v for xs, _ in thin.values() for v in xs], LEFT, RIGHT, pad=0, log=x_log)
    shown = [v for _, ys in thin.values() for v in ys]
    y = Axis.of([*shown, *_near(shown, limits or {})], BOTTOM, TOP, log=log)
    parts = [_frame(x, y), _limits(limits or {}, y)]
    for number, (xs, ys) in enumerate(thin.values()):
        if smooth:
            parts.append(_path(xs, ys, x, y, f"raw c{number % 6}"))
        parts.append(_path(xs, centred_mean(ys, smooth), x, y, f"line c{number % 6}"))
    hover = {
        "x": x_name,
        "series": [
            {"name": name, "xs": _short(xs), "ys": _short(ys), "px": [x(v) for v in xs], "py": [y(v) for v in ys]}
            for name, (xs, ys) in thin.items()
        ],
    }
    return figure(title, "".join(parts), note, list(series), hover)


def histogram(title: str, groups: Mapping[str, Sequence[float]], *, note: str = "", bins: int = 40) -> str:
    """Draw the distributions of several groups of values over each other, each as a share of its own group."""
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in groups.items()}
    x = Axis.of([v for values in finite.values() for v in values], LEFT, RIGHT, pad=0.02)
    shares = {name: _shares(values, x, bins) for name, values in finite.items()}
    y = Axis.of([0.0, *(v for s in shares.values() for v in s)], BOTTOM, TOP)
    step = (x.high - x.low) / bins
    edges = [x.low + step * i for i in range(bins + 1)]
    parts = [_frame(x, y)]
    for number, heights in enumerate(shares.values()):
        tops = "".join(f"L{x(a)},{y(h)}L{x(b)},{y(h)}" for a, b, h in zip(edges, edges[1:], heights))
        parts.append(f'<path class="area c{number % 6}" d="M{x(edges[0])},{BOTTOM}{tops}L{x(edges[-1])},{BOTTOM}Z"/>')
    return figure(title, "".join(parts), note, list(groups), None)


def centred_mean(values: Sequence[float], radius: int) -> list[float]:
    """Return the mean over `radius` points to either side, so that it does not lag."""
    out = []
    for i in range(len(values)):
        near = [v for v in values[max(0, i - radius) : i + radius + 1] if math.isfinite(v)]
        out.append(sum(near) / len(near) if near else math.nan)
    return out


def _thin(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Keep every n-th point, and the last."""
    stride = -(-len(xs) // POINTS) or 1
    keep = sorted({*range(0, len(xs), stride), *range(len(xs) - 1, len(xs))})
    return [float(xs[i]) for i in keep], [float(ys[i]) for i in keep]


def _near(shown: Sequence[float], limits: Mapping[str, float]) -> list[float]:
    """Return the limits that are near enough to the data to be worth room on the axis."""
    finite = [v for v in shown if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    room = 2 * (high - low) or abs(high)
    return [v for v in limits.values() if low - room <= v <= high + room]


def _shares(values: Sequence[float], x: Axis, bins: int) -> list[float]:
    counts = [0] * bins
    for value in values:
        counts[min(int((value - x.low) / (x.high - x.low) * bins), bins - 1)] += 1
    return [count / max(len(values), 1) for count in counts]


def _path(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis, kind: str) -> str:
    """Draw one curve; a value that is not finite breaks it."""
    steps, pen = [], "M"
    for a, b in zip(xs, ys):
        if math.isfinite(b) and not (y.log and b <= 0):
            steps.append(f"{pen}{x(a)},{y(b)}")
            pen = "L"
        else:
            pen = "M"
    return f'<path class="{kind}" d="{"".join(steps)}"/>'


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{label(tick)}</text>')
    for tick in x.ticks(5):
        parts.append(f'<text class="tick" x="{x(tick)}" y="{BOTTOM + 17}" text-anchor="middle">{label(tick)}</text>')
    return "".join(parts)


def _limits(limits: Mapping[str, float], y: Axis) -> str:
    parts = []
    for name, value in limits.items():
        if y.low <= value <= y.high:
            at = y(value)
            parts.append(f'<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>')
            parts.append(f'<text class="limit" x="{RIGHT}" y="{at - 4}" text-anchor="end">{escape(name)}</text>')
    return "".join(parts)


def figure(
    title: str,
    drawing: str,
    note: str,
    names: Sequence[str],
    hover: object = None,
    size: Sequence[float] = (WIDTH, HEIGHT),
) -> str:
    """Frame a drawing: caption, legend where there is more than one name, note, and what the pointer shows."""
    legend = "".join(f'<span class="key c{i % 6}">{escape(n)}</span>' for i, n in enumerate(names) if len(names) > 1)
    style = f'style="max-width:{size[0] * 1.15:.0f}px" ' if size[0] != WIDTH else ""  # small print stays small
    data = f' data-hover="{escape(json.dumps(hover, separators=(",", ":")))}"' if hover else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{legend}</figcaption>'
        f'<svg viewBox="0 0 {size[0]:g} {size[1]:g}" {style}role="img" aria-label="{escape(title)}"{data}>'
        f"{drawing}</svg>" + (f'<p class="note">{escape(note)}</p>' if note else "") + "</figure>"
    )


def _short(values: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
