"""Evaluation sets in the ordinary shards that one trains on."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eval.sets import PLAIN, EvalSet, Templates, check_labels, distinct, many_hot
from mmclr.config import nearest
from mmclr.data.index import open_indices
from mmclr.data.ledger import REASONS, Ledger
from mmclr.data.shards import Sample, Shards
from mmclr.data.sources import expand
from mmclr.errors import UserError


def ordinary(
    urls: str | Sequence[str],
    *,
    caption: str = "txt",
    label: str = "",
    classnames: Sequence[str] = (),
    templates: Templates = PLAIN,
    name: str = "",
) -> EvalSet:
    """Read shards with KEY.jpg and KEY.txt, KEY.json or KEY.cls.

    `caption` (may be empty) and `label` are an extension (txt, cls) or a field of the json (json:subgroup). The
    classes are `classnames`, or the sorted distinct values of a json label; lists of values make a set of several
    classes.
    """
    if label == "cls" and not classnames:
        raise UserError("a .cls member holds a number; say what the classes are called with --classnames FILE")
    fields = [field for field in (caption, label) if field]
    table = read(expand(urls), fields, name or (urls if isinstance(urls, str) else urls[0]))
    parts: dict[str, Any] = {}
    if caption:
        parts["captions"] = [value if isinstance(value, list) else [str(value)] for value in table.column(0)]
    if label:
        values = table.column(-1)
        if label == "cls":
            parts["labels"] = table.numbers(-1, len(classnames))
        else:
            classnames = classnames or distinct(values)
            parts["labels"] = many_hot(values, classnames, table.name, table.keys)
        parts |= {"classnames": classnames, "templates": templates}
    return table.make(**parts)


@dataclass(frozen=True)
class Table:
    """What was read of each usable sample, without the pictures."""

    name: str
    shards: Shards
    rows: list[tuple[int, str, list[Any]]]  # number in the shards, key, one value per field
    skipped: dict[str, int]

    @property
    def keys(self) -> list[str]:
        """The samples' keys."""
        return [key for _, key, _ in self.rows]

    def column(self, field: int) -> list[Any]:
        """Return the values of one field."""
        return [values[field] for _, _, values in self.rows]

    def numbers(self, field: int, classes: int) -> torch.Tensor:
        """Return a field as class numbers [N], checked."""
        return check_labels(self.column(field), self.keys, classes, self.name)

    def vectors(self, field: int, classes: int) -> torch.Tensor:
        """Return a field as vectors of several classes [N, C], checked."""
        for vector, key in zip(self.column(field), self.keys):
            if vector.shape != (classes,) or not np.isin(vector, (0, 1)).all():
                raise UserError(f"{self.name}: sample {key}: its .npy is no vector of {classes} zeros and ones")
        return torch.from_numpy(np.stack(self.column(field)).astype(np.uint8))

    def make(self, **parts: Any) -> EvalSet:
        """Return the set of these samples."""
        numbers = [number for number, _, _ in self.rows]
        shards = self.shards
        return EvalSet(self.name, lambda i: shards.read(numbers[i]).image(), self.keys, skipped=self.skipped, **parts)


def read(urls: Sequence[str], fields: Sequence[str], name: str) -> Table:
    """Read the fields of all samples; one that lacks any of them is left out and counted."""
    ledger = Ledger()
    extensions = tuple(dict.fromkeys(field.split(":")[0] for field in fields))
    shards = Shards(open_indices(urls), captions=extensions, ledger=ledger)
    reasons = REASONS | {"no_caption": f"the sample has no {' or '.join(extensions)}"}
    skipped = {reasons[reason]: count for reason, count in ledger.excluded.items()}
    rows = []
    for number in range(len(shards)):
        sample = shards.read(number, extensions)
        values = [_field(sample, field) for field in fields]
        lacking = next((field for field, value in zip(fields, values) if value is None), None)
        if lacking is None:
            rows.append((number, sample.key, values))
        else:
            reason = f"the sample has no {lacking}"
            skipped[reason] = skipped.get(reason, 0) + 1
    if not rows:
        raise UserError(_nothing(name, shards.read(0, extensions), fields, skipped))
    return Table(name, shards, rows, skipped)


def _field(sample: Sample, field: str) -> Any:
    """Return what a sample says in an extension, or in a field of its json; None where it says nothing."""
    extension, _, inside = field.partition(":")
    data = sample.members.get(extension)
    if data is None:
        return None
    try:
        if extension == "json":
            return json.loads(data).get(inside)
        if extension == "npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        text = data.decode("utf-8").strip()
        return int(text) if extension == "cls" else text
    except (ValueError, AttributeError) as error:
        raise UserError(f"{sample.shard}, sample {sample.key}: its .{extension} cannot be read: {error}") from None


def _nothing(name: str, first: Sample, fields: Sequence[str], skipped: dict[str, int]) -> str:
    """Say why no sample is left: with the json's fields, where one was asked for that it does not have."""
    lost = "; ".join(f"{count}: {reason}" for reason, count in skipped.items())
    for field in fields:
        extension, _, inside = field.partition(":")
        if extension == "json" and _field(first, field) is None and "json" in first.members:
            return f"{name}: no json has the field {inside!r}{nearest(inside, json.loads(first.members['json']))}"
    return f"{name}: no sample has all of {', '.join(fields)} ({lost})"
