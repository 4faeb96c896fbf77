"""docs/architecture.md as tests read it: its fenced blocks by kind."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def block(kind):
    """Return the lines of the page's one block of a kind."""
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return text.splitlines()


FLOORS = {name: int(floor) for floor, *names in map(str.split, block("floors")) for name in names}
ROOMS_OF = {library: tuple(rooms) for library, *rooms in map(str.split, block("libraries"))}
