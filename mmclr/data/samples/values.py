"""Values of batch fields out of what stands in a sample: one reader for each kind of `mmclr.batch_fields`.

Where nothing stands there (or null), it is the kind's `missing`. What cannot be used raises Fault: a bad sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from mmclr.batch_fields import KINDS
from mmclr.data.samples.fields import Field, Members, first, is_missing, kind_of, label, weight
from mmclr.data.samples.skipped import Fault

LARGEST = 3.4e38  # of float32
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read(kind: str, field: Field, sample: Members, most: int = 0, lost: list[Fault] | None = None) -> Any:
    """Return the value of a field in a sample, see `convert`. Raises Fault."""
    return convert(kind, field.value(sample), field.text, most, lost)


def convert(kind: str, value: Any, name: str, most: int = 0, lost: list[Fault] | None = None) -> Any:
    """Return what a value of JSON is in a field of this kind; of a kind with several entries a list. Raises Fault.

    Of more than `most` entries the first are kept, and that is added to `lost`.
    """
    if value is None or isinstance(value, list) and first(value) is None:
        return [] if KINDS[kind].most else KINDS[kind].missing
    found = READERS[kind](value, name)
    if isinstance(found, list) and len(found) > most:
        if lost is not None:
            lost.append(Fault("cut_list", f"{name} has {len(found)} entries, and {most} are kept"))
        return found[:most]
    return found


def number(value: Any, name: str) -> float:
    """Return a value as a finite number, NaN where a table says that it is missing; of a list the first entry."""
    value = first(value)
    if is_missing(value) or isinstance(value, str) and not value.strip():
        return math.nan
    try:
        found = math.inf if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        found = math.inf
    if abs(found) > LARGEST:
        raise Fault("bad_field", f"{name} is {_shown(value)}, not a finite number")
    return found


def flag(value: Any, name: str) -> bool:
    """Return a value as true or false: 1 and 0, yes and no, too."""
    value = first(value)
    text = str(int(value)) if isinstance(value, float) and value in (0, 1) else str(value).strip().lower()
    if isinstance(value, (dict, list)) or text not in FLAGS:
        raise Fault("bad_field", f"{name} is {_shown(value)}, not true or false")
    return FLAGS[text]


def tags(value: Any, name: str) -> list[int]:
    """Return the classes of a list, or of a text with commas or line ends between them, each once; -1 is none."""
    parts = re.split(r"[,\n]", value) if isinstance(value, str) else value if isinstance(value, list) else [value]
    kept = (part for part in parts if part is not None and str(part).strip())
    return [found for found in dict.fromkeys(label(part, name) for part in kept) if found != -1]


def boxes(value: Any, name: str) -> list[list[float]]:
    """Return boxes [left, top, right, bottom] in shares of the image, of a list of them or of a single one."""
    if not isinstance(value, list):
        raise Fault("bad_field", f"{name} is {_shown(value)}, not a list of boxes")
    return [_box(box, name) for box in ([value] if not isinstance(first(value), list) else value) if box is not None]


def _box(box: Any, name: str) -> list[float]:
    whole = isinstance(box, list) and len(box) == 4
    if whole and all(isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in box):
        left, top, right, bottom = box
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return [float(edge) for edge in box]
    raise Fault("bad_field", f"{name} has {str(box)[:60]}, not left, top, right, bottom in shares of the image, 0 to 1")


def _shown(value: Any) -> str:
    return f"{value[:40]!r}" if isinstance(value, str) else f"{value:g}" if type(value) is float else kind_of(value)


READERS: dict[str, Callable[[Any, str], Any]] = {
    "class": label,
    "number": number,
    "weight": weight,
    "flag": flag,
    "tags": tags,
    "boxes": boxes,
}
