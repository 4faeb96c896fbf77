"""The doctor's findings, one line each."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("ok", "fixed", "note", "BROKEN")


@dataclass(frozen=True)
class Finding:
    """A finding, its weight, and its remedy (the last two are empty when all is well)."""

    level: str  # one of LEVELS
    what: str
    why: str = ""
    do: str = ""

    def __str__(self) -> str:
        """Return one line."""
        text = f"{self.level:<7} {self.what}"
        text += f": {self.why}" if self.why else ""
        text += f". To do: {self.do}" if self.do else ""
        return " ".join(text.splitlines())
