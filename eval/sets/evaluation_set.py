"""An evaluation set: encoded images, and what is known of each: captions, a class, or several classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr.data.pixels.medium import Medium
from mmclr.data.samples import fields
from mmclr.data.samples.images import Images
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.shards.shards import Sample
from mmclr.data.tabular import rows
from mmclr.errors import UserError

MAX_FAULTS = 0.01  # share of samples that may be unusable, as in training
CHARACTERS = 10_000  # of a caption; the rest is cut and counted, as in training
Templates = Sequence[str] | Mapping[str, Sequence[str]]  # with a slot {c}; or whole prompts of each class
PLAIN = ("{c}",)


@dataclass(frozen=True)
class EvalSet:
    """N images, and what a suite compares them with."""

    name: str
    read: Callable[[int], bytes] = field(repr=False)  # encoded image of a number
    keys: Sequence[str] = field(repr=False)  # [N]
    captions: Sequence[Sequence[str]] = ()  # [N], one or more strings each; empty where the set has none
    labels: Tensor | None = None  # int64 [N] class numbers, or [N, C] of 0 and 1 for several classes
    targets: Tensor | None = None  # float64 [N], a number of each
    classnames: Sequence[str] = ()
    templates: Templates = PLAIN
    language: str = "en"
    items: Images | None = None  # how a sample of several images names them: it is one row all the same
    keep: bool = True  # whether embeddings of its images may be asked for again
    skipped: Mapping[str, int] = field(default_factory=dict)  # what was left out, by reason (data.ledger.REASONS)
    faults: Sequence[Entry] = field(default=(), repr=False)  # the first few of each reason
    max_faults: float = MAX_FAULTS  # share that may be damaged; with more it is another set
    where: Callable[[int], Entry] | None = field(default=None, repr=False)  # place of a number, for its fault
    sample: Callable[[int, frozenset[str]], Sample] | None = field(default=None, repr=False)  # its members, of shards

    def __post_init__(self) -> None:
        if not len(self.keys):
            lost = "".join(f"\n{line}" for line in self.ledger.lines(met="left out"))
            raise UserError(f"{self.name}: the set has no samples{lost}")

    def __len__(self) -> int:
        return len(self.keys)

    def seen_by(self, medium: Medium, number: int, lost: list[Fault]) -> tuple[list[bytes], Mapping[str, bytes]]:
        """Return the encoded images of a number that a medium takes, at least one, and the members beside them.

        An item of several may lack some, which are added to `lost`. Raises Fault.
        """
        if self.sample is None:
            return [self.read(number)], {}
        found = self.sample(number, frozenset([*medium.members, *medium.beside]))
        beside = {name: found.members[name] for name in medium.beside if name in found.members}
        return (self.items or Images("")).of(found, medium.members, lost), beside

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels is not None and self.labels.dim() == 2

    @property
    def ledger(self) -> Ledger:
        """Samples left out, as training counts them."""
        ledger = Ledger()
        ledger.counts = dict(self.skipped)
        for entry in self.faults:
            ledger.examples.setdefault(entry.reason, []).append(entry)
        return ledger

    def check(self) -> EvalSet:
        """Return the set. Raises UserError when too many of its samples are damaged; those that lack a part are not."""
        ledger = self.ledger
        ledger.counts = {reason: n for reason, n in ledger.counts.items() if reason in DAMAGE}
        ledger.check(len(self) + ledger.lost, "skip", self.max_faults, "--max_faults ")
        return self

    def without(self, faults: Mapping[int, Fault]) -> EvalSet:
        """Return the set without the images that have faults, these counted. Raises UserError: see `check`."""
        if not faults:
            return self
        kept = [i for i in range(len(self)) if i not in faults]
        ledger = self._counting(faults.items())
        if not kept:
            lines = "\n".join(ledger.lines(met="left out"))
            raise UserError(f"{self.name}: none of its {len(self)} images can be used:\n{lines}")
        return replace(self._of(kept), **counted(ledger)).check()

    def noting(self, lost: Sequence[tuple[int, Fault]]) -> EvalSet:
        """Return the set with faults counted of images (number of the set, fault) that lose it none of its items."""
        return replace(self, **counted(self._counting(lost))) if lost else self

    def _counting(self, faults: Iterable[tuple[int, Fault]]) -> Ledger:
        """Return the ledger with these faults of numbers of the set."""
        ledger = self.ledger
        for i, fault in faults:
            place = self.where(i) if self.where else Entry(self.name, i, self.keys[i], "", "")
            ledger.add([place._replace(reason=fault.reason, detail=fault.detail)])
        return ledger

    def subset(self, numbers: Sequence[int], reason: str) -> EvalSet:
        """Return the set of these images, in this order; the others are counted under `reason`."""
        lost = len(self) - len(numbers)
        if not lost and list(numbers) == list(range(len(self))):
            return self
        more = {reason: self.skipped.get(reason, 0) + lost} if lost else {}
        return replace(self._of(numbers), skipped={**self.skipped, **more})

    def _of(self, numbers: Sequence[int]) -> EvalSet:
        read, where, sample = self.read, self.where, self.sample
        return replace(
            self,
            read=lambda i: read(numbers[i]),
            keys=[self.keys[i] for i in numbers],
            captions=[self.captions[i] for i in numbers] if self.captions else (),
            labels=None if self.labels is None else self.labels[list(numbers)],
            targets=None if self.targets is None else self.targets[list(numbers)],
            where=None if where is None else (lambda i: where(numbers[i])),
            sample=None if sample is None else (lambda i, members: sample(numbers[i], members)),
        )

    def need_captions(self) -> None:
        """Raise UserError where the set has no captions."""
        if not self.captions:
            raise UserError(f"{self.name}: the set has no captions, which this needs; name them with --caption")

    def need_classes(self) -> None:
        """Raise UserError where the set has no classes."""
        _ = self.classes

    @property
    def classes(self) -> Tensor:
        """`labels` of a set that has some. Raises UserError where it has none."""
        if self.labels is None:
            raise UserError(f"{self.name}: the set has no classes; name a label with --label cls or --label json:FIELD")
        return self.labels

    @property
    def annotation_hash(self) -> str:
        """Tell whether two results used the same keys, captions and labels."""
        labels = [] if self.labels is None else self.labels.tolist()
        captions = [list(texts) for texts in self.captions]
        targets = [] if self.targets is None else [self.targets.tolist()]  # of others the hash is what it was
        return text_hash(repr((list(self.keys), captions, labels, *targets)))


def text_hash(text: str) -> str:
    """Return the first 16 digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# what was met while reading; what the index leaves out (notes, half samples, cut shards) is counted and no damage here
DAMAGE = {"empty_caption", "bad_text", "bad_label", "bad_image", "no_range", "too_many_pixels", "unreadable", "bad_row",
          "missing_file"}  # fmt: skip


def counted(ledger: Ledger) -> dict[str, Any]:
    """Return what a ledger counted as parts of an EvalSet."""
    both = {
        reason: ledger.excluded.get(reason, 0) + ledger.counts.get(reason, 0)
        for reason in (*ledger.excluded, *ledger.counts)
    }
    return {"skipped": both, "faults": tuple(entry for entries in ledger.examples.values() for entry in entries)}


def cut_captions(captions: Sequence[str], lost: list[Fault]) -> list[str]:
    """Return captions without what stands beyond CHARACTERS; each that is cut is added to `lost`."""
    lost += [Fault("cut_caption", f"{len(text):,} characters") for text in captions if len(text) > CHARACTERS]
    return [text[:CHARACTERS] for text in captions]


def strange_classes(
    values: Sequence[Sequence[Any]], known: Callable[[Any], bool], name: str, keys: Sequence[str], said: str
) -> dict[int, Fault]:
    """Return the faults of samples with a class that is not known, by number.

    A class that one sample has alone is a damaged value. One that several have is a name that is missing: UserError.
    """
    found: dict[Any, list[int]] = {}
    for number, classes in enumerate(values):
        for value in classes:
            if not known(value):
                found.setdefault(value, []).append(number)
    for value, numbers in found.items():
        if len(numbers) > 1:
            raise UserError(f"{name}: sample {keys[numbers[0]]}{said.format(repr(value))} ({len(numbers)} samples)")
    faults = {numbers[0]: Fault("bad_label", said.format(repr(value)).strip(": ")) for value, numbers in found.items()}
    if len(faults) == len(values):
        raise UserError(f"{name}: sample {keys[0]}{said.format(repr(next(iter(found))))}")
    return faults


def distinct(values: Sequence[Any]) -> list[str]:
    """Return the sorted distinct values of a label, as strings; of lists, those of their members."""
    flat = (member for value in values for member in (value if isinstance(value, list) else [value]))
    return sorted({str(member) for member in flat})


def many_hot(values: Sequence[Any], classnames: Sequence[str]) -> Tensor:
    """Return class numbers [N] of single values, or 0/1 vectors [N, C] of lists of values; all of them are known."""
    number = {classname: i for i, classname in enumerate(classnames)}
    if not isinstance(values[0], list):
        return torch.tensor([number[str(value)] for value in values], dtype=torch.int64)
    out = torch.zeros((len(values), len(classnames)), dtype=torch.int64)
    for row, members in enumerate(values):
        for member in members:
            out[row, number[str(member)]] = 1
    return out


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that is one item a line, stripped; an empty one is an error."""
    lines = [line.strip() for line in rows.read_text(path).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the file is empty")
    if "" in lines:
        raise UserError(f"{path}: line {lines.index('') + 1} is empty; the number of a line is the number of its class")
    return [_name(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def names_of(value: Any, path: Path) -> list[str]:
    """Return a JSON list of strings. Raises UserError."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: a JSON list of strings is asked for")
    return [_name(entry, f"{path}, entry {number}") for number, entry in enumerate(value, 1)]


def _name(value: Any, place: str) -> str:
    try:
        return fields.caption(value, place)
    except Fault as fault:
        raise UserError(f"{fault.detail}; names and templates are text") from None
