"""Laws of what an objective says of itself: `mmclr papers` and PAPERS.md are made of it."""

from __future__ import annotations

import dataclasses
import inspect
import re

from mmclr.laws.case import Case
from mmclr.laws.law import demand, law
from mmclr.losses.objective import Objective

LINES = 15


@law(once=True)
def docstring(case: Case) -> None:
    """The docstring has a sentence, source, year, arXiv number, formula, "Reduces to:", "Differs from the paper:"."""
    text = inspect.getdoc(case.cls) or ""
    first, lines = text.partition("\n\n")[0], len(text.splitlines())
    wanted = {
        "a first paragraph of one sentence": first.endswith("."),
        "an arXiv number, a doi, or 'no arXiv'": re.search(r"arXiv:?\s*\d{4}\.\d{4,5}|doi|no arXiv", text),
        "the year": re.search(r"\b(19|20)\d\d\b", text),
        "a formula of the form L = ...": re.search(r"\bL\w* =|L_\w+ =", text),
        "'Reduces to:'": "Reduces to:" in text,
        "'Differs from the paper:'": "Differs from the paper:" in text,
    }
    missing = [what for what, found in wanted.items() if not found]
    demand(not missing, f"the docstring lacks {', '.join(missing)}")
    demand(lines <= LINES, f"the docstring has {lines} lines; {LINES} are the most")


@law(once=True)
def field_comments(case: Case) -> None:
    """Every field has a comment behind it with its meaning, which `mmclr papers` prints."""
    classes = [c for c in case.cls.__mro__ if issubclass(c, Objective) and c is not Objective]
    source = "".join(inspect.getsource(c) for c in classes)
    names = [field.name for field in dataclasses.fields(case.cls)]  # type: ignore[arg-type]
    bare = [name for name in names if not re.search(rf"^    {name}: .*  # \S", source, re.MULTILINE)]
    demand(not bare, f"{', '.join(bare)}: no comment behind the field")
