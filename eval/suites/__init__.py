"""Evaluation suites: each is a file in a room below, which has `suite`, and the file's name is the suite's.

`mmclr eval NAME`, a list of tasks (`mmclr eval all`) and `evaluate:` of a training take it by this name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mmclr import discovery

if TYPE_CHECKING:
    from mmclr.eval.suite import Suite


def names() -> list[str]:
    """Return the names of all suites, found by walking; none is imported."""
    return list(discovery.by_name(__name__))


def find(name: str) -> Suite:
    """Import the file of a suite and return it. Raises KeyError where there is none of this name."""
    suite: Suite = importlib.import_module(discovery.by_name(__name__)[name]).suite
    return suite
