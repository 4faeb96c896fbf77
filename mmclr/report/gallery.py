"""Picture grids: a query and the pictures it finds; a picture and the classes it is taken for, or its caption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mmclr.report.pictures import Picture, data_uri


@dataclass(frozen=True)
class Found:
    """One picture that a query found."""

    picture: Picture
    right: bool | None = None  # whether it is a right answer; None: nobody knows
    name: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Query:
    """One row: what was asked (a text, or a picture) and what was found, best first."""

    text: str
    found: Sequence[Found]
    note: str = ""
    picture: Picture | None = None


@dataclass(frozen=True)
class Prediction:
    """A picture, its class, and the classes it is taken for with their probabilities, best first."""

    picture: Picture
    truth: str
    guesses: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Written:
    """A picture, the caption that a model wrote of it, and a caption that people wrote."""

    picture: Picture
    caption: str
    truth: str
    right: bool = False  # whether the two say the same


def grid(queries: Iterable[Query]) -> str:
    """Draw one row per query; right answers carry a ring and a tick."""
    return f'<div class="queries">{"".join(_row(query) for query in queries)}</div>'


def cards(predictions: Iterable[Prediction]) -> str:
    """Draw one card per prediction, its guesses as bars."""
    return f'<div class="cards">{"".join(_card(p) for p in predictions)}</div>'


def captions(items: Iterable[Written]) -> str:
    """Draw one card per picture: what was written, and below it the reference."""
    return f'<div class="cards">{"".join(map(_written, items))}</div>'


def _row(query: Query) -> str:
    asked = f'<img src="{data_uri(query.picture)}" alt="">' if query.picture is not None else ""
    asked += f"<b>{escape(query.text)}</b>"
    known = [found.right for found in query.found if found.right is not None]
    if known:
        place = next((i + 1 for i, right in enumerate(known) if right), None)
        asked += f'<span class="{"good" if place else "bad"}">{f"found at {place}" if place else "not found"}</span>'
    if query.note:
        asked += f"<small>{escape(query.note)}</small>"
    return f'<div class="query"><div class="asked">{asked}</div><ol>{"".join(map(_tile, query.found))}</ol></div>'


def _tile(found: Found) -> str:
    kind = {True: "right", False: "wrong", None: ""}[found.right]
    mark = '<i aria-label="right answer">✓</i>' if found.right else ""
    score = f"{found.score:.2f}" if found.score is not None else ""
    hint = escape(" · ".join(part for part in (found.name, score) if part))
    caption = f"<span>{escape(found.name)}</span>" if found.name else ""
    image = f'<img src="{data_uri(found.picture)}" alt="{escape(found.name)}" loading="lazy">'
    return f'<li class="{kind}" title="{hint}">{mark}{image}{caption}</li>'


def _card(prediction: Prediction) -> str:
    rows = "".join(
        f'<li class="{"right" if name == prediction.truth else ""}"><span>{escape(name)}</span>'
        f'<i><i style="width:{share:.1%}"></i></i><em>{share:.0%}</em></li>'
        for name, share in prediction.guesses
    )
    image = f'<img src="{data_uri(prediction.picture)}" alt="{escape(prediction.truth)}" loading="lazy">'
    return f'<div class="card">{image}<div><b>{escape(prediction.truth)}</b><ul>{rows}</ul></div></div>'


def _written(item: Written) -> str:
    truth = f'<li class="{"right" if item.right else ""}"><span>{escape(item.truth)}</span></li>'
    image = f'<img src="{data_uri(item.picture)}" alt="{escape(item.truth)}" loading="lazy">'
    return f'<div class="card">{image}<div><b>{escape(item.caption) or "–"}</b><ul>{truth}</ul></div></div>'
