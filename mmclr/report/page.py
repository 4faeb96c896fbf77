"""The page: sections of numbers, curves, tables and pictures in one file that needs no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmclr import __version__, written
from mmclr.report import curves, gallery, tables
from mmclr.report.gallery import Prediction, Query, Written
from mmclr.report.tables import Number

KIND = "report"  # in manifests


class Page:
    """Collects sections; each method adds one and returns the page, so that calls chain.

    Page("demo").numbers([...]).curves("runs/demo/log.jsonl").gallery("What it finds", rows).save("report.html")
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.sections: list[tuple[str, str]] = []  # (title, HTML); an untitled one goes without a head

    def numbers(self, items: Iterable[Number], title: str = "", note: str = "") -> Page:
        """Add key numbers as tiles."""
        return self.add(title, tables.numbers(items), note)

    def result(self, tree: Mapping[str, Any], title: str = "", note: str = "") -> Page:
        """Add the numbers of an evaluation's JSON."""
        head = title or f"{tree['task']} · {tree['dataset']}"
        return self.numbers(tables.of_result(tree), head, note)

    def curves(
        self,
        log: str | Path | Iterable[Mapping[str, Any]],
        run: str = "",
        limits: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Page:
        """Add the curves of a JSONL log: the training, the geometry of its batches, evaluations made during it."""
        for part, html in curves.draw(log, limits).items():
            self.add(f"{part} · {run}" if run else part, html)
        return self

    def charts(self, title: str, figures: Iterable[str], note: str = "") -> Page:
        """Add figures made by mmclr.report.charts, side by side."""
        return self.add(title, f'<div class="charts">{"".join(figures)}</div>', note)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> Page:
        """Add a table that sorts."""
        return self.add(title, tables.table(columns, rows), note)

    def gallery(self, title: str, queries: Iterable[Query], note: str = "") -> Page:
        """Add a grid: each query and the pictures it finds."""
        return self.add(title, gallery.grid(queries), note)

    def predictions(self, title: str, predictions: Iterable[Prediction], note: str = "") -> Page:
        """Add cards: each picture and the classes it is taken for."""
        return self.add(title, gallery.cards(predictions), note)

    def captions(self, title: str, items: Iterable[Written], note: str = "") -> Page:
        """Add cards: each picture, the caption that was written of it, and a reference."""
        return self.add(title, gallery.captions(items), note)

    def text(self, title: str, *paragraphs: str) -> Page:
        """Add plain paragraphs; `code` between backticks is set as such."""
        coded = (re.sub("`([^`]+)`", r"<code>\1</code>", escape(paragraph)) for paragraph in paragraphs)
        return self.add(title, "".join(f"<p>{paragraph}</p>" for paragraph in coded))

    def add(self, title: str, html: str, note: str = "") -> Page:
        """Add a section of ready HTML."""
        lead = f'<p class="lead">{escape(note)}</p>' if note else ""
        self.sections.append((title, lead + html))
        return self

    def html(self) -> str:
        """Return the whole page."""
        style, script = (files("mmclr.report").joinpath(n).read_text("utf-8") for n in ("style.css", "script.js"))
        titled = [(f"s{i}", title) for i, (title, _) in enumerate(self.sections) if title]
        links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in titled)
        body = "".join(_section(f"s{i}", title, html) for i, (title, html) in enumerate(self.sections))
        subtitle = f"<p>{escape(self.subtitle)}</p>" if self.subtitle else ""
        made = f"{datetime.now():%Y-%m-%d %H:%M} · mmclr {__version__}"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{style}</style></head><body>"
            f'<header><div><h1>{escape(self.title)}</h1>{subtitle}</div>'
            '<button type="button" id="theme" aria-label="switch between dark and light">◐</button></header>'
            f'<nav aria-label="sections">{links}</nav><main>{body}</main>'
            f"<footer>{made}</footer><script>{script}</script></body></html>\n"
        )  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write the page to `path`, which is new or such a page that we wrote."""
        return written.write(path, self.html(), KIND)


def _section(key: str, title: str, html: str) -> str:
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section id="{key}">{head}{html}</section>'
