"""JSON files of strangers: read up to a size, as a mapping, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmclr.errors import UserError

LARGEST = 16 << 20  # bytes


def read_json(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Return the mapping in a JSON file. Raises UserError where it is none, is too large, or is nested too deep."""
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            raise UserError(f"{path}: more than {largest >> 20} MiB, which no such file has; it is not read")
        tree = json.loads(data)
    except RecursionError:
        raise UserError(f"{path}: cannot be read, it is nested too deep; copy it again") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read, it is no JSON ({str(error)[:100]}); copy it again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: cannot be read, it is a {type(tree).__name__} and no mapping; copy it again")
    return tree
