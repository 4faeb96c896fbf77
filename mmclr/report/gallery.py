"""Image grids: a query and the images it finds; an image and the classes it is taken for, or its caption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mmclr.display.html import render
from mmclr.report.images import AnyImage, data_uri


@dataclass(frozen=True)
class Found:
    """One image that a query found."""

    image: AnyImage
    right: bool | None = None  # whether it is a right answer; None: nobody knows
    name: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Query:
    """One row: what was asked (a text, or an image) and what was found, best first."""

    text: str
    found: Sequence[Found]
    note: str = ""
    image: AnyImage | None = None


@dataclass(frozen=True)
class Prediction:
    """An image, its class, and the classes it is taken for with their probabilities, best first."""

    image: AnyImage
    truth: str
    guesses: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Written:
    """An image, the caption that a model wrote of it, and a caption that people wrote."""

    image: AnyImage
    caption: str
    truth: str
    right: bool = False  # whether the two say the same


def grid(queries: Iterable[Query]) -> Markup:
    """Draw one row per query; right answers carry a ring and a tick."""
    return render("grid.html", queries=[_row(query) for query in queries])


def cards(predictions: Iterable[Prediction]) -> Markup:
    """Draw one card per prediction, its guesses as bars."""
    return render("cards.html", cards=[_card(prediction) for prediction in predictions])


def captions(items: Iterable[Written]) -> Markup:
    """Draw one card per image: what was written, and below it the reference."""
    return render("cards.html", cards=[_written(item) for item in items])


def _row(query: Query) -> dict[str, Any]:
    known = [found.right for found in query.found if found.right is not None]
    place = next((i + 1 for i, right in enumerate(known) if right), 0) if known else None
    return {
        "text": query.text,
        "note": query.note,
        "image": data_uri(query.image) if query.image is not None else "",
        "place": place,  # 0: not found; None: nobody knows
        "found": [_tile(found) for found in query.found],
    }


def _tile(found: Found) -> dict[str, Any]:
    score = f"{found.score:.2f}" if found.score is not None else ""
    return {
        "kind": {True: "right", False: "wrong", None: ""}[found.right],
        "hint": " · ".join(part for part in (found.name, score) if part),
        "name": found.name,
        "image": data_uri(found.image),
    }


def _card(prediction: Prediction) -> dict[str, Any]:
    rows = [
        {"name": name, "right": name == prediction.truth, "width": f"{share:.1%}", "share": f"{share:.0%}"}
        for name, share in prediction.guesses
    ]
    return {"image": data_uri(prediction.image), "alt": prediction.truth, "head": prediction.truth, "rows": rows}


def _written(item: Written) -> dict[str, Any]:
    rows = [{"name": item.truth, "right": item.right, "width": ""}]
    return {"image": data_uri(item.image), "alt": item.truth, "head": item.caption or "–", "rows": rows}
