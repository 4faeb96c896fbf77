"""HTML and SVG from the templates beside this file, in which everything that is no template is escaped."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from mmclr.display.secrets import redact, redact_tree
from mmclr.display.terminal import one_line, plain

FOLDER = Path(__file__).parent / "templates"


class _Joined(Extension):
    """Join the lines of a template: no blank stands between elements that is not written there."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return "".join(line.strip() for line in source.splitlines())


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        extensions=[_Joined],
    )


def render(template: str, **values: Any) -> Markup:
    """Return what a template makes of `values`: strings are text in it, only Markup is markup."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704


def own(name: str) -> Markup:
    """Return a file of ours as it is: style, script."""
    return Markup((FOLDER / name).read_text("utf-8"))  # noqa: S704


def to_json(tree: Any) -> str:
    """Return JSON for an attribute or a script: without secrets, and without anything that could end either."""
    text = json.dumps(redact_tree(tree), separators=(",", ":"))  # ASCII: no separators of lines, no bidi marks
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(value: Any) -> Any:
    """Return a value as pages show it: text without secrets, and without what turns its direction round."""
    return plain(redact(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def markdown(text: object) -> str:
    """Return a text for a line or a table's cell of Markdown, in which none of it is markup or HTML."""
    shown = one_line(redact(str(text))).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", shown)


def code(text: str) -> str:
    """Return the inside of a string of JSON or Python that may stand in a code span or block of Markdown."""
    return json.dumps(redact(text))[1:-1].translate({ord(c): f"\\u{ord(c):04x}" for c in "<>`"})
