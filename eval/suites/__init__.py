"""Evaluation suites: each is a file in a room below, which has `suite`, and the file's name is the suite's.

`mmclr eval NAME`, a list of tasks (`mmclr eval all`) and `evaluate:` of a training take it by this name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mmclr import discovery, plugins

if TYPE_CHECKING:
    from mmclr.eval.suite import Suite


def names() -> list[str]:
    """Return the names of all suites: ours, found by walking without importing one, and those of plugins."""
    ours = discovery.by_name(__name__)
    plugins.load_installed()
    return [*ours, *plugins.suites(ours)]


def find(name: str) -> Suite:
    """Return a suite, ours from its file. Raises KeyError where there is none of this name."""
    ours = discovery.by_name(__name__)
    suite: Suite = importlib.import_module(ours[name]).suite if name in ours else plugins.suites(ours)[name]
    return suite
