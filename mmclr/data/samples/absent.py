"""Fields that no sample has: found out before anything is read through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmclr.data.samples.fields import Field
from mmclr.data.samples.meant import meant
from mmclr.data.samples.skipped import Fault
from mmclr.data.shards.shards import Shards
from mmclr.errors import UserError, note

LOOK = 1000  # samples that are looked into for a field of their json; the first that has it is enough
REMOTE = 32  # where each has to come over a network


def check(parts: Sequence[Shards], wanted: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError where no sample has any of the fields of a setting; note those that no sample has beside others.

    `wanted` maps settings (data.caption, --label) to fields. A member's name is looked up among all samples, a field of
    the json in LOOK of them, spread evenly; where none of those can be read, nothing is said.
    """
    for setting, names in wanted.items():
        lacking = [name for name in names if name and not any(_has(part, name) for part in parts)]
        indices = [index for part in parts for index in part.indices]
        for name in lacking:
            text = f"{setting}={name}: no sample has it{meant(name, indices, parts[0].reader)}"
            if len(lacking) == len(names):
                raise UserError(text)
            note(f"{text}; the others are used")


def _has(part: Shards, name: str) -> bool:
    """Whether a sample has a field, or none can be read, so that nobody knows."""
    field = Field(name)
    if not any(field.extension in index.extensions for index in part.indices):
        return False
    if not field.path:
        return True
    count = min(len(part), REMOTE if part.remote else LOOK)
    readable = False
    for turn in range(count):
        try:
            if field.value(part.read(turn * len(part) // count, (field.extension,))) is not None:
                return True
            readable = True
        except Fault:
            continue
    return not readable
