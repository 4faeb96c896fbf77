"""Tables that sort, and key numbers with their intervals drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mmclr.display.html import render
from mmclr.report.axis import label


@dataclass(frozen=True)
class Number:
    """One key number. A share in 0..1 with an interval is drawn as a bar; `chance` and `aim` are marks on it."""

    name: str
    value: float | str | None
    interval: Sequence[float] | None = None  # [low, high]
    note: str = ""
    chance: float | None = None
    aim: float | None = None


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """Draw a table whose columns sort when their head is pressed; numbers stand to the right."""
    rows = [list(row) for row in rows]
    numeric = [all(_is_number(row[i]) or row[i] is None for row in rows) for i in range(len(columns))]
    cells = [[_cell(value) for value in row] for row in rows]
    return render("table.html", columns=columns, numeric=numeric, rows=cells)


def numbers(items: Iterable[Number]) -> Markup:
    """Draw key numbers as a row of tiles."""
    return render("numbers.html", items=[_number(item) for item in items])


def of_result(result: Mapping[str, Any], chance: Mapping[str, float] | None = None) -> list[Number]:
    """Return the metrics of an evaluation's JSON as key numbers."""
    out = []
    for name, value in result["metrics"].items():
        interval, n = result.get("ci95", {}).get(name), result.get("n", {}).get(name)
        out.append(Number(name, value, interval, f"n = {n:,}" if n else "", (chance or {}).get(name)))
    return out


def _number(item: Number) -> dict[str, Any]:
    value = item.value if isinstance(item.value, str) else "–" if item.value is None else f"{item.value:.3f}"
    span = f"{item.interval[0]:.3f} – {item.interval[1]:.3f}" if item.interval else ""
    small = " · ".join(part for part in (span, item.note) if part)
    bar = _bar(item) if isinstance(item.value, float) and item.interval and 0 <= item.value <= 1 else None
    return {"parts": item.name.split("_"), "value": value, "small": small, "bar": bar}


def _bar(item: Number) -> dict[str, Any]:
    """Return the interval as a band, and the value, chance and aim as marks, in hundredths of a track."""
    low, high = item.interval  # type: ignore[misc]
    marks = [
        {"kind": kind, "at": f"{at * 100:.2f}", "hint": f"{kind} {at:.3f}"}
        for kind, at in (("value", item.value), ("chance", item.chance), ("aim", item.aim))
        if isinstance(at, (int, float))
    ]
    return {"low": f"{low * 100:.2f}", "width": f"{max(high - low, 0.004) * 100:.2f}", "marks": marks}


def _cell(value: Any) -> dict[str, Any]:
    """Return a cell's text, and the number by which it sorts."""
    if value is None:
        return {"text": "–", "value": None}
    if not _is_number(value):
        return {"text": str(value), "value": None}
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if 1e-3 <= abs(value) < 10 else label(value)
    return {"text": text, "value": repr(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
