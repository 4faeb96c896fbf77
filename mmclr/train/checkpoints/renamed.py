"""Names of weights in earlier versions, and what they are called now: read in checkpoints, and in optim.groups."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmclr.train.step import EMA, MODEL

NUMBER = r"(?:\d+|\*)"  # in optim.groups it may be a *
RENAMED = {  # N: a number
    "sources.N.model.": MODEL,
    "sources.N.teacher.": EMA + "teacher.",
}


def by_todays_name(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return today's name of each, and which renames were used, in words."""
    found, used = {}, set()
    for old in names:
        name = old
        for pattern, now in RENAMED.items():
            name, times = re.subn(rf"\b{re.escape(pattern).replace('N', NUMBER)}", now, name)
            used |= {f"{pattern} is {now}"} if times else set()
        found[old] = name
    return found, sorted(used)
