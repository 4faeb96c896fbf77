"""Say what comes from data on a terminal: literally, never as markup, control sequences or another direction."""

from __future__ import annotations

import re
from typing import TextIO

from mmclr.display.secrets import redact

# control characters but tab and line feed, what turns the direction of text round, separators of lines, half characters
HOSTILE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """Return a text with what a terminal would obey written as escapes: `\\x1b`, `\\r`, `\\u202e`, `\\udc80`."""
    return HOSTILE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def one_line(text: object) -> str:
    """Return a text as `plain`, on one line: for keys, captions and names inside a sentence."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: object = "", file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text literally and without secrets, on standard output if no other file is named."""
    print(plain(redact(str(text))), file=file, flush=flush)
