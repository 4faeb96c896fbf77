"""Evaluation sets in the ordinary shards that one trains on."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmclr.eval.sets.evaluation_set import (
    PLAIN,
    EvalSet,
    Templates,
    counted,
    cut_captions,
    distinct,
    many_hot,
    strange_classes,
)

from mmclr.data.samples import absent as missing_fields
from mmclr.data.samples import fields, values
from mmclr.data.samples.fields import Field
from mmclr.data.samples.images import Images, Names
from mmclr.data.samples.meant import meant
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import IMAGES, Sample, Shards
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError

ANY = (*IMAGES, "npy")  # members that may be images; which of them a model takes its medium says
# (sample, field, faults of single captions) -> value, None where it is not there. Raises Fault.
Reading = Callable[[Sample, str, list[Fault]], Any]


def ordinary(
    urls: str | Sequence[str],
    *,
    caption: str = "txt",
    label: str = "",
    target: str = "",
    classnames: Sequence[str] = (),
    templates: Templates = PLAIN,
    name: str = "",
    images: Names = "",
) -> EvalSet:
    """Read shards with KEY.jpg and KEY.txt, KEY.json or KEY.cls.

    `images` says which are a sample's where it has several (see `data.samples.images`); it is one row all the same.

    `caption` (may be empty), `label` and `target` (a number) are an extension (txt, cls) or a field of the json
    (json:subgroup, json:a.b). The classes are `classnames`, or the sorted distinct values of a json label; lists of
    values make a set of several classes.
    """
    if label == "cls" and not classnames:
        raise UserError("a .cls member holds a number; say what the classes are called with --classnames FILE")
    wanted: dict[str, Reading] = {}
    if caption:
        wanted[caption] = captions
    if label and label != caption:
        wanted[label] = class_number if label == "cls" else class_value
    if target and target in wanted:
        raise UserError(f"{target} is named for two things; a target is a number, and neither caption nor class")
    if target:
        wanted[target] = number
    table = read(expand(urls), wanted, name or (urls if isinstance(urls, str) else urls[0]), images)
    if label:
        at = list(wanted).index(label)
        table = table.of_numbers(at, len(classnames)) if label == "cls" else table.of_names(at, classnames)
    parts: dict[str, Any] = {"captions": table.column(0)} if caption else {}
    if target:
        parts["targets"] = torch.tensor(table.column(list(wanted).index(target)), dtype=torch.float64)
    if label:
        said = table.column(at)
        classnames = classnames or distinct(said)
        labels = torch.tensor(said, dtype=torch.int64) if label == "cls" else many_hot(said, classnames)
        parts |= {"labels": labels, "classnames": classnames, "templates": templates}
    return table.make(**parts)


def captions(sample: Sample, field: str, lost: list[Fault]) -> list[str] | None:
    """Read captions: the text of a member, stripped, or a field of the json with one or a list of them."""
    found = Field(field).texts(sample, lost)
    if found is None:
        return None
    kept = [text if ":" in field else text.strip() for text in found if text.strip()]
    if not kept:
        raise Fault("empty_caption", f"{field} has nothing but spaces")
    return cut_captions(kept, lost)


def text(sample: Sample, field: str, lost: list[Fault]) -> str | None:
    """Read the text of a member, stripped."""
    found = Field(field).value(sample)
    return found if found is None else found.strip()


def class_number(sample: Sample, field: str, lost: list[Fault]) -> int | None:
    """Read the number of a class."""
    value = Field(field).value(sample)
    return None if value is None else fields.label(value, field, words=False)


def number(sample: Sample, field: str, lost: list[Fault]) -> float | None:
    """Read a finite number."""
    found = values.read("number", Field(field), sample)
    return None if math.isnan(found) else float(found)


def class_value(sample: Sample, field: str, lost: list[Fault]) -> Any:
    """Read the value of a class, text or a number, or a list of several."""
    value = Field(field).value(sample)
    if value is None:
        return None
    value = value.strip() if isinstance(value, str) and ":" not in field else value
    several = isinstance(value, list)
    found = [entry for entry in (value if several else [value]) if entry is not None]
    for entry in found:
        fields.label([entry] if isinstance(entry, list) else entry, field)  # what is no label in training is none here
    return found if several else value


def vector(sample: Sample, field: str, lost: list[Fault]) -> Any:
    """Read a .npy."""
    data = sample.members.get(field)
    if data is None:
        return None
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError, OverflowError, TypeError) as error:
        raise Fault("bad_label", f"its .npy cannot be read: {str(error)[:200]}") from None


@dataclass(frozen=True)
class Table:
    """Values read of each usable sample, without the images."""

    name: str
    shards: Shards
    rows: list[tuple[int, str, list[Any]]]  # number in the shards, key, one value per field
    ledger: Ledger
    images: tuple[str, ...]  # members that may be images
    items: Images  # which of them are, where a sample has several

    @property
    def keys(self) -> list[str]:
        """The samples' keys."""
        return [key for _, key, _ in self.rows]

    def column(self, field: int) -> list[Any]:
        """Return the values of one field."""
        return [values[field] for _, _, values in self.rows]

    def of_numbers(self, field: int, classes: int) -> Table:
        """Return the rows whose field is a class number. Raises UserError: see `strange_classes`."""
        said = f" has class {{}}, but the {classes} classes are 0 to {classes - 1}"
        values = [[value] for value in self.column(field)]
        return self.without(strange_classes(values, lambda v: 0 <= v < classes, self.name, self.keys, said))

    def of_names(self, field: int, classnames: Sequence[str]) -> Table:
        """Return the rows whose field is a class, or a list of classes as most are. Raises UserError."""
        values = self.column(field)
        several = 2 * sum(isinstance(value, list) for value in values) > len(values)
        odd = {
            i: Fault("bad_label", f"{v!r:.40} is {'no' if several else 'a'} list, and most labels are otherwise")
            for i, v in enumerate(values)
            if isinstance(v, list) != several
        }
        table = self.without(odd)
        if not classnames:
            return table
        lists = [value if several else [value] for value in table.column(field)]
        known = set(classnames)
        said = f": its class {{}} is not one of the {len(known)} class names"
        return table.without(strange_classes(lists, lambda v: str(v) in known, self.name, table.keys, said))

    def of_vectors(self, field: int, classes: int) -> Table:
        """Return the rows whose field is a vector of `classes` zeros and ones."""
        why = f"its .npy is no vector of {classes} zeros and ones"
        vectors = enumerate(self.column(field))
        odd = {i: Fault("bad_label", why) for i, v in vectors if v.shape != (classes,) or not np.isin(v, (0, 1)).all()}
        if len(odd) == len(self.rows):
            raise UserError(f"{self.name}: sample {self.keys[0]}: {why}")
        return self.without(odd)

    def without(self, faults: dict[int, Fault]) -> Table:
        """Return the table without the rows that have faults, these counted."""
        for i, fault in faults.items():
            self.ledger.add([_entry(self.shards, self.rows[i][0], fault)])
        return replace(self, rows=[r for i, r in enumerate(self.rows) if i not in faults])

    def make(self, **parts: Any) -> EvalSet:
        """Return the set of these samples."""
        numbers = [number for number, _, _ in self.rows]
        shards, images = self.shards, self.images
        labels = frozenset(ANY) - frozenset(images)
        named = bool(self.items.addresses)
        more = frozenset([*images, *self.items.beside] if named else ())
        return EvalSet(
            self.name,
            lambda i: self.items.of(shards.read(numbers[i], more or images), images, [])[0],
            self.keys,
            items=self.items if named else None,
            sample=lambda i, members: shards.read(numbers[i], (members - labels) | more),
            where=lambda i: shards.where(numbers[i]),
            **counted(self.ledger),
            **parts,
        )


def read(urls: Sequence[str], wanted: dict[str, Reading], name: str, names: Names = "") -> Table:
    """Read the fields of all samples; one that lacks any of them, or cannot be read, is left out and counted."""
    ledger, asked, indices, items = Ledger(), fields.extensions(list(wanted)), open_indices(urls), Images(names)
    usual = tuple(name for name in ANY if name not in asked)  # a label may be an .npy, too
    images = items.members((name for index in indices for name in index.extensions), usual)
    shards = Shards(indices, captions=asked, ledger=ledger, images=images)
    shards.several = items.several
    missing_fields.check([shards], {"--image-members": items.addresses})
    absent = {field: "no_caption" if how in (captions, text) else "no_label" for field, how in wanted.items()}
    if "no_caption" not in absent.values():
        _rename(ledger, "no_caption", "no_label")
    rows, missing = [], dict.fromkeys(wanted, 0)
    for number in range(len(shards)):
        try:
            sample, lost = shards.read(number, shards.wanted - frozenset(images)), list[Fault]()
            values = [how(sample, field, lost) for field, how in wanted.items()]
            lacking = next((field for field, value in zip(wanted, values) if value is None), None)
            if lacking is not None:
                missing[lacking] += 1
                raise Fault(absent[lacking], f"it has no {lacking}")
            rows.append((number, sample.key, values))
        except Fault as fault:
            lost = [fault]
        ledger.add(_entry(shards, number, fault) for fault in lost)
    if not rows:
        raise UserError(_nothing(name, shards, wanted, missing, ledger))
    return Table(name, shards, rows, ledger, images, items)


def _entry(shards: Shards, number: int, fault: Fault) -> Any:
    return shards.where(number)._replace(reason=fault.reason, detail=fault.detail)


def _rename(ledger: Ledger, old: str, new: str) -> None:
    """Count what lacks a label as that: to the shards every field is a caption."""
    if old in ledger.excluded:
        ledger.excluded[new] = ledger.excluded.pop(old)
        ledger.examples[new] = [entry._replace(reason=new) for entry in ledger.examples.pop(old, [])]


def _nothing(name: str, shards: Shards, wanted: dict[str, Reading], missing: dict[str, int], ledger: Ledger) -> str:
    """Say why no sample is left, and which field is meant where one was asked for that none has."""
    lost = "\n".join(ledger.lines(met="left out"))
    for field in wanted:
        if 0 < missing[field] == sum(missing.values()):
            return f"{name}: no sample has {field}{meant(field, shards.indices, shards.reader)}\n{lost}"
    return f"{name}: no sample has all of {', '.join(wanted)}\n{lost}"
