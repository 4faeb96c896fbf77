"""The result of a tool, told to people in lines or to programs as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmclr.display.secrets import redact_tree
from mmclr.display.terminal import say


def tell(result: Mapping[str, Any], as_json: bool) -> None:
    """Say the numbers of a result as one JSON object, or its `lines`."""
    if as_json:
        say(json.dumps(redact_tree({name: value for name, value in result.items() if name != "lines"}), indent=2))
        return
    for line in result["lines"]:
        say(line)
