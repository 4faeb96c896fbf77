"""The console of tables and progress bars: text is text there, whatever brackets and control characters it has."""

from __future__ import annotations

from typing import Any

from rich import console
from rich.text import Text

from mmclr.display.secrets import redact
from mmclr.display.terminal import plain


class Console(console.Console):
    """A rich console to which no text is markup, and none is coloured by what it looks like.

    Emphasis is given as `style`, or as a rich Text. Every string that it shows passes `plain` and `redact`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render_str(self, text: str, **how: Any) -> Text:
        """Return what rich shows of a string: prints, titles, heads and cells of tables come through here."""
        return super().render_str(plain(redact(text)), **{**how, "markup": False, "emoji": False})
