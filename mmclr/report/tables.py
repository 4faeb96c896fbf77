"""Tables that sort, and key numbers with their intervals drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mmclr.report.scale import label


@dataclass(frozen=True)
class Number:
    """One key number. A share in 0..1 with an interval is drawn as a bar; `chance` and `aim` are marks on it."""

    name: str
    value: float | str | None
    interval: Sequence[float] | None = None  # [low, high]
    note: str = ""
    chance: float | None = None
    aim: float | None = None


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Draw a table whose columns sort when their head is pressed; numbers stand to the right."""
    rows = [list(row) for row in rows]
    numeric = [all(_is_number(row[i]) or row[i] is None for row in rows) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_side(right)}><button type="button">{escape(name)}</button></th>'
        for name, right in zip(columns, numeric)
    )
    body = "".join(f"<tr>{''.join(_cell(v, right) for v, right in zip(row, numeric))}</tr>" for row in rows)
    return f'<div class="scroll"><table class="sort"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def numbers(items: Iterable[Number]) -> str:
    """Draw key numbers as a row of tiles."""
    return f'<div class="numbers">{"".join(map(_number, items))}</div>'


def of_result(result: Mapping[str, Any], chance: Mapping[str, float] | None = None) -> list[Number]:
    """Return the metrics of an evaluation's JSON as key numbers."""
    out = []
    for name, value in result["metrics"].items():
        interval, n = result.get("ci95", {}).get(name), result.get("n", {}).get(name)
        out.append(Number(name, value, interval, f"n = {n:,}" if n else "", (chance or {}).get(name)))
    return out


def _number(item: Number) -> str:
    value = item.value if isinstance(item.value, str) else "–" if item.value is None else f"{item.value:.3f}"
    span = f"{item.interval[0]:.3f} – {item.interval[1]:.3f}" if item.interval else ""
    small = " · ".join(part for part in (span, item.note) if part)
    bar = _bar(item) if isinstance(item.value, float) and item.interval and 0 <= item.value <= 1 else ""
    return (
        f'<div class="number"><span>{escape(item.name).replace("_", "_<wbr>")}</span><b>{escape(value)}</b>{bar}'
        f"<small>{escape(small)}</small></div>"
    )


def _bar(item: Number) -> str:
    """Draw 0..1 as a track, the interval as a band, the value, chance and aim as marks."""
    low, high = item.interval  # type: ignore[misc]
    marks = [("value", item.value, "value"), ("chance", item.chance, "chance"), ("aim", item.aim, "aim")]
    ticks = "".join(
        f'<line class="{kind}" x1="{at * 100:.2f}" x2="{at * 100:.2f}" y2="8"><title>{name} {at:.3f}</title></line>'
        for kind, at, name in marks
        if at is not None
    )
    band = f'<rect class="band" x="{low * 100:.2f}" y="1" width="{max(high - low, 0.004) * 100:.2f}" height="6"/>'
    return (
        '<svg class="range" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" y="3" height="2"/>{band}{ticks}</svg>'
    )


def _cell(value: Any, right: bool) -> str:
    if value is None:
        return f"<td{_side(right)}>–</td>"
    if not _is_number(value):
        return f"<td{_side(right)}>{escape(str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if 1e-3 <= abs(value) < 10 else label(value)
    return f'<td{_side(right)} data-v="{value!r}">{text}</td>'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _side(right: bool) -> str:
    return ' class="n"' if right else ""
