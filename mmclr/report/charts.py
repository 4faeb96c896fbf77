"""Inline SVG charts that read without JavaScript, and answer to the pointer with it (script.js)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from markupsafe import Markup

from mmclr.display.html import render, to_json
from mmclr.display.terminal import plain
from mmclr.report.axis import Axis, label

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
) -> Markup:
    """Draw {name: (xs, ys)} as curves; `limits` are named horizontal lines, `log` and `x_log` logarithmic axes.

    With `smooth`, the mean over so many points to either side is drawn, and the raw values stay visible behind it.
    """
    thin = {name: _thin(*curve) for name, curve in series.items()}
    x = Axis.of([v for xs, _ in thin.values() for v in xs], LEFT, RIGHT, pad=0, log=x_log)
    shown = [v for _, ys in thin.values() for v in ys]
    y = Axis.of([*shown, *_near(shown, limits or {})], BOTTOM, TOP, log=log)
    paths = []
    for number, (xs, ys) in enumerate(thin.values()):
        if smooth:
            paths.append((f"raw c{number % 6}", _path(xs, ys, x, y)))
        paths.append((f"line c{number % 6}", _path(xs, centred_mean(ys, smooth), x, y)))
    hover = {
        "x": x_name,
        "series": [
            {
                "name": plain(name),
                "xs": _short(xs),
                "ys": _short(ys),
                "px": [x(v) for v in xs],
                "py": [y(v) for v in ys],
            }
            for name, (xs, ys) in thin.items()
        ],
    }
    return figure(title, _axes(x, y, paths, limits or {}), note, list(series), hover)


def histogram(title: str, groups: Mapping[str, Sequence[float]], *, note: str = "", bins: int = 40) -> Markup:
    """Draw the distributions of several groups of values over each other, each as a share of its own group."""
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in groups.items()}
    x = Axis.of([v for values in finite.values() for v in values], LEFT, RIGHT, pad=0.02)
    shares = {name: _shares(values, x, bins) for name, values in finite.items()}
    y = Axis.of([0.0, *(v for s in shares.values() for v in s)], BOTTOM, TOP)
    step = (x.high - x.low) / bins
    edges = [x.low + step * i for i in range(bins + 1)]
    paths = []
    for number, heights in enumerate(shares.values()):
        tops = "".join(f"L{x(a)},{y(h)}L{x(b)},{y(h)}" for a, b, h in zip(edges, edges[1:], heights))
        paths.append((f"area c{number % 6}", f"M{x(edges[0])},{BOTTOM}{tops}L{x(edges[-1])},{BOTTOM}Z"))
    return figure(title, _axes(x, y, paths), note, list(groups), None)


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


def _path(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis) -> str:
    """Draw one curve; a value that is not finite breaks it."""
    steps, pen = [], "M"
    for a, b in zip(xs, ys):
        if math.isfinite(b) and not (y.log and b <= 0):
            steps.append(f"{pen}{x(a)},{y(b)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def _axes(x: Axis, y: Axis, paths: Sequence[tuple[str, str]], limits: Mapping[str, float] | None = None) -> Markup:
    """Draw a grid with its numbers, named horizontal lines, and paths: (class, steps)."""
    return render(
        "axes.svg",
        left=LEFT,
        right=RIGHT,
        bottom=BOTTOM,
        paths=paths,
        down=[{"at": y(tick), "label": label(tick)} for tick in y.ticks()],
        across=[{"at": x(tick), "label": label(tick)} for tick in x.ticks(5)],
        limits=[{"at": y(v), "label": name} for name, v in (limits or {}).items() if y.low <= v <= y.high],
    )


def figure(
    title: str,
    drawing: Markup,
    note: str,
    names: Sequence[str],
    hover: object = None,
    size: Sequence[float] = (WIDTH, HEIGHT),
) -> Markup:
    """Frame a drawing: caption, legend where there is more than one name, note, and what the pointer shows."""
    return render(
        "figure.html",
        title=title,
        names=names,
        note=note,
        drawing=drawing,
        width=f"{size[0]:g}",
        height=f"{size[1]:g}",
        limit=f"{size[0] * 1.15:.0f}" if size[0] != WIDTH else "",  # small print stays small
        hover=Markup(escape(to_json(hover))) if hover else "",
    )


def _short(values: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
