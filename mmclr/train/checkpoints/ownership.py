"""A run's own files in its folder; a folder where others have their names is refused at the start."""

from __future__ import annotations

import json
from pathlib import Path

from mmclr.errors import UserError
from mmclr.storage import written


def _has_step(start: bytes) -> bool:
    """Whether a file begins with a JSON object, on its first line, that tells a step."""
    try:
        return "step" in json.loads(start.split(b"\n")[0])
    except (ValueError, TypeError, RecursionError):
        return False


LOG = ("log of a run", _has_step)  # in the manifest, and as runs before there was one are known
BEST = ("best checkpoint", _has_step)


def claim(folder: Path) -> None:
    """Make the files of a run in `folder` ours. Raises UserError where such a file is somebody else's."""
    try:
        written.claim(folder / "log.jsonl", *LOG)
        written.check(folder / "best.json", *BEST)
    except UserError as error:
        raise UserError(f"out: {folder} is not the folder of a run of ours ({error}); set out to another") from None
