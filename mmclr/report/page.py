"""The page: sections of numbers, curves, tables and images in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmclr import __version__
from mmclr.display.html import own, render
from mmclr.report import curves, gallery, tables
from mmclr.report.gallery import Prediction, Query, Written
from mmclr.report.tables import Number
from mmclr.storage import written

KIND = "report"  # in manifests
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Page:
    """Collects sections; each method adds one and returns the page, so that calls chain.

    Page("demo").numbers([...]).curves("runs/demo/log.jsonl").gallery("What it finds", rows).save("report.html")
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.sections: list[tuple[str, Markup]] = []  # (title, its HTML); an untitled one goes without a head

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
        return self.add(title, render("charts.html", figures=list(figures)), note)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> Page:
        """Add a table that sorts."""
        return self.add(title, tables.table(columns, rows), note)

    def gallery(self, title: str, queries: Iterable[Query], note: str = "") -> Page:
        """Add a grid: each query and the images it finds."""
        return self.add(title, gallery.grid(queries), note)

    def predictions(self, title: str, predictions: Iterable[Prediction], note: str = "") -> Page:
        """Add cards: each image and the classes it is taken for."""
        return self.add(title, gallery.cards(predictions), note)

    def captions(self, title: str, items: Iterable[Written], note: str = "") -> Page:
        """Add cards: each image, the caption that was written of it, and a reference."""
        return self.add(title, gallery.captions(items), note)

    def text(self, title: str, *paragraphs: str) -> Page:
        """Add plain paragraphs; `code` between backticks is set as such."""
        pieces = [re.split("`([^`]+)`", paragraph) for paragraph in paragraphs]  # every second one is code
        return self.add(title, render("paragraphs.html", paragraphs=pieces))

    def add(self, title: str, html: str, note: str = "") -> Page:
        """Add a section of what a template made (Markup); other strings are text."""
        self.sections.append((title, render("section.html", note=note, body=html)))
        return self

    def html(self) -> str:
        """Return the whole page."""
        style, script = own("style.css"), own("script.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        made = f"{datetime.now():%Y-%m-%d %H:%M} · mmclr {__version__}"
        page = render(
            "report.html",
            title=self.title,
            subtitle=self.subtitle,
            sections=self.sections,
            made=made,
            style=style,
            script=script,
            policy=f"{POLICY}; script-src 'sha256-{digest}'",
        )
        return str(page)  # Markup would escape what its methods are given

    def save(self, path: str | Path) -> Path:
        """Write the page to `path`, which is new or such a page that we wrote."""
        return written.write(path, self.html(), KIND)
