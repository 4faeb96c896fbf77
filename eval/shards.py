"""Evaluation sets in tar shards: CLIP_benchmark's layout, and the ordinary shards that one trains on."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.sets import PLAIN, EvalSet, Templates, check_labels, distinct, many_hot, read_lines
from mmclr.config import nearest
from mmclr.data.index import open_indices
from mmclr.data.ledger import REASONS, Ledger
from mmclr.data.shards import Sample, Shards
from mmclr.data.sources import expand
from mmclr.errors import UserError

TEMPLATES = "zeroshot_classification_templates.txt"
MEMBERS = {"classification": "cls", "retrieval": "txt", "multilabel": "npy"}


def benchmark(root: str | Path, split: str = "test", name: str = "") -> EvalSet:
    """Read CLIP_benchmark's layout (DataComp's too): ROOT/classnames.txt, ROOT/SPLIT/{nshards.txt, 0.tar, ...}.

    ROOT/dataset_type.txt says retrieval or multilabel; without it the set is a classification.
    """
    root = Path(root)
    kind = _word(root / "dataset_type.txt", "classification")
    if kind not in MEMBERS:
        raise UserError(f"{root}/dataset_type.txt says {kind!r}; it may say retrieval or multilabel, or be absent")
    table = _read(_numbered(root / split), [MEMBERS[kind]], name or root.name)
    if kind == "retrieval":
        captions = [[line.replace("\\n", "\n") for line in text.split("\n")] for text in table.column(0)]
        return table.make(captions=captions)
    if not (root / "classnames.txt").is_file():
        raise UserError(f"{root}: no classnames.txt there; it names the classes, one a line, in the order of numbers")
    classnames = read_lines(root / "classnames.txt")
    templates = read_lines(root / TEMPLATES) if (root / TEMPLATES).is_file() else PLAIN
    check = table.vectors if kind == "multilabel" else table.numbers
    return table.make(labels=check(0, len(classnames)), classnames=classnames, templates=templates)


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
    table = _read(expand(urls), fields, name or (urls if isinstance(urls, str) else urls[0]))
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
class _Table:
    """What was read of each usable sample, without the pictures."""

    name: str
    shards: Shards
    rows: list[tuple[int, str, list[Any]]]  # number in the shards, key, one value per field
    skipped: dict[str, int]

    @property
    def keys(self) -> list[str]:
        return [key for _, key, _ in self.rows]

    def column(self, field: int) -> list[Any]:
        return [values[field] for _, _, values in self.rows]

    def numbers(self, field: int, classes: int) -> torch.Tensor:
        return check_labels(self.column(field), self.keys, classes, self.name)

    def vectors(self, field: int, classes: int) -> torch.Tensor:
        for vector, key in zip(self.column(field), self.keys):
            if vector.shape != (classes,) or not np.isin(vector, (0, 1)).all():
                raise UserError(f"{self.name}: sample {key}: its .npy is no vector of {classes} zeros and ones")
        return torch.from_numpy(np.stack(self.column(field)).astype(np.uint8))

    def make(self, **parts: Any) -> EvalSet:
        numbers = [number for number, _, _ in self.rows]
        shards = self.shards
        return EvalSet(self.name, lambda i: shards.read(numbers[i]).image(), self.keys, skipped=self.skipped, **parts)


def _read(urls: Sequence[str], fields: Sequence[str], name: str) -> _Table:
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
    return _Table(name, shards, rows, skipped)


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


def _numbered(folder: Path) -> list[str]:
    """Return the shards 0.tar to n - 1.tar of a split; nshards.txt must agree with what lies there."""
    if not folder.is_dir():
        splits = sorted(path.parent.name for path in folder.parent.glob("*/nshards.txt"))
        raise UserError(f"{folder}: no such split{nearest(folder.name, splits)}")
    said = _word(folder / "nshards.txt", "")
    if not said.isdigit() or int(said) < 1:
        raise UserError(f"{folder}/nshards.txt must hold the number of shards (it has {said or 'nothing'!r})")
    there = {path.name for path in folder.glob("*.tar")}
    expected = [f"{number}.tar" for number in range(int(said))]
    if there != set(expected):
        odd = sorted(set(expected) - there) or sorted(there - set(expected))
        what = "missing" if set(expected) - there else "not counted"
        raise UserError(f"{folder}/nshards.txt says {said}, but {len(there)} shards are there ({odd[0]} is {what})")
    return [str(folder / name) for name in expected]


def _word(path: Path, absent: str) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else absent
