"""An evaluation set: encoded pictures, and what is known of each: captions, a class, or several classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr.errors import UserError

Templates = Sequence[str] | Mapping[str, Sequence[str]]  # with a slot {c}; or whole prompts of each class
PLAIN = ("{c}",)


@dataclass(frozen=True)
class EvalSet:
    """N pictures, and what a suite compares them with."""

    name: str
    read: Callable[[int], bytes] = field(repr=False)  # encoded picture of a number
    keys: Sequence[str] = field(repr=False)  # [N]
    captions: Sequence[Sequence[str]] = ()  # [N], one or more strings each; empty where the set has none
    labels: Tensor | None = None  # int64 [N] class numbers, or [N, C] of 0 and 1 for several classes
    classnames: Sequence[str] = ()
    templates: Templates = PLAIN
    language: str = "en"
    keep: bool = True  # whether embeddings of its pictures may be asked for again
    skipped: Mapping[str, int] = field(default_factory=dict)  # what was left out, by reason

    def __post_init__(self) -> None:
        if not len(self.keys):
            lost = ", ".join(f"{count} left out: {reason}" for reason, count in self.skipped.items())
            raise UserError(f"{self.name}: the set has no samples{f' ({lost})' if lost else ''}")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several classes."""
        return self.labels is not None and self.labels.dim() == 2

    def subset(self, numbers: Sequence[int], reason: str) -> EvalSet:
        """Return the set of these pictures, in this order; the others are counted under `reason`."""
        lost = len(self) - len(numbers)
        if not lost and list(numbers) == list(range(len(self))):
            return self
        return replace(
            self,
            read=lambda i, read=self.read: read(numbers[i]),
            keys=[self.keys[i] for i in numbers],
            captions=[self.captions[i] for i in numbers] if self.captions else (),
            labels=None if self.labels is None else self.labels[list(numbers)],
            skipped={**self.skipped, **({reason: self.skipped.get(reason, 0) + lost} if lost else {})},
        )

    def need_captions(self) -> None:
        """Raise UserError where the set has no captions."""
        if not self.captions:
            raise UserError(f"{self.name}: the set has no captions, which this needs; name them with --caption")

    def need_classes(self) -> None:
        """Raise UserError where the set has no classes."""
        if self.labels is None:
            raise UserError(f"{self.name}: the set has no classes; name a label with --label cls or --label json:FIELD")

    @property
    def annotation_hash(self) -> str:
        """Tell whether two results used the same keys, captions and labels."""
        labels = [] if self.labels is None else self.labels.tolist()
        captions = [list(texts) for texts in self.captions]
        return text_hash(repr((list(self.keys), captions, labels)))


def text_hash(text: str) -> str:
    """Return the first 16 digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_labels(labels: Sequence[int], keys: Sequence[str], classes: int, name: str) -> Tensor:
    """Return class numbers [N] as a tensor, or say which sample's is out of range."""
    for label, key in zip(labels, keys):
        if not 0 <= label < classes:
            raise UserError(f"{name}: sample {key} has class {label}, but the {classes} classes are 0 to {classes - 1}")
    return torch.tensor(labels, dtype=torch.int64)


def distinct(values: Sequence[Any]) -> list[str]:
    """Return the sorted distinct values of a label, as strings; of lists, those of their members."""
    flat = (member for value in values for member in (value if isinstance(value, list) else [value]))
    return sorted({str(member) for member in flat})


def many_hot(values: Sequence[Any], classnames: Sequence[str], name: str, keys: Sequence[str]) -> Tensor:
    """Return class numbers [N] of single values, or 0/1 vectors [N, C] of lists of values."""
    number = {classname: i for i, classname in enumerate(classnames)}
    several = isinstance(values[0], list)
    out = torch.zeros((len(values), len(classnames)) if several else (len(values),), dtype=torch.int64)
    for row, (value, key) in enumerate(zip(values, keys)):
        if isinstance(value, list) != several:
            raise UserError(f"{name}: sample {key}: some labels are lists and some are not")
        for member in value if several else [value]:
            if str(member) not in number:
                raise UserError(
                    f"{name}: sample {key}: its class {member!r} is not one of the {len(number)} class names"
                )
            if several:
                out[row, number[str(member)]] = 1
            else:
                out[row] = number[str(member)]
    return out


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that is one item a line, stripped; an empty one is an error."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the file is empty")
    if "" in lines:
        raise UserError(f"{path}: line {lines.index('') + 1} is empty; the number of a line is the number of its class")
    return lines
