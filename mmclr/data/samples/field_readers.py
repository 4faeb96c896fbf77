"""Readers of the batch fields of a run: a member of the sample, a column beside the shard, or its source.

An address is "cls" or another member, "json:x" for a field of one, "column:NAME" for a column, "source" for the number
of the sample's source in data.train, "source:NAME" for whether it is of that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmclr.batch_fields import FIELDS, KINDS, SETS, Kind, lacking, lacking_set
from mmclr.config import ConfigError
from mmclr.data import columns
from mmclr.data.columns.clusters import Clusters
from mmclr.data.columns.kind import INTEGERS
from mmclr.data.columns.of_shard import find
from mmclr.data.columns.reader import Column
from mmclr.data.samples import values
from mmclr.data.samples.fields import Field
from mmclr.data.samples.skipped import Fault
from mmclr.data.settings import DataConfig
from mmclr.data.shards.index import Ints
from mmclr.data.shards.shards import Sample, Shards, bounds
from mmclr.errors import UserError
from mmclr.vocabulary import FEATURES

MOST_CLASSES = 1_000_000  # larger numbers are hashes, or no classes
PLACES = ("column", "source")  # beginnings of addresses that are no members of a sample


class Reader(Protocol):
    """Values of one field. `shape` is that of a sample's."""

    shape: tuple[int, ...]

    @property
    def classes(self) -> int:
        """Number of values, 0 where that is not known."""

    def value(self, sample: Sample, number: int, lost: list[Fault]) -> Any:
        """Return the value of a sample, whose number over all sources is `number`. Raises Fault."""


class Constant:
    """The same value for every sample."""

    shape: tuple[int, ...] = ()
    classes = 0

    def __init__(self, value: float) -> None:
        self._value = value

    def value(self, sample: Sample, number: int, lost: list[Fault]) -> Any:
        """Return it."""
        return self._value


class Member:
    """A member of the sample, or a field of it."""

    classes = 0

    def __init__(self, kind: str, address: str, most: int) -> None:
        self.kind, self.field, self.most = kind, Field(address), most or KINDS[kind].most
        self.shape = shape(KINDS[kind], self.most)

    def value(self, sample: Sample, number: int, lost: list[Fault]) -> Any:
        """Return what stands there; entries behind the last are padded. Raises Fault."""
        return _padded(self.kind, values.read(self.kind, self.field, sample, self.most, lost), self.shape)


class InColumn:
    """A column beside the shard: a number, text, or several numbers of each sample."""

    def __init__(self, parts: Sequence[Shards], name: str, column: str, most: int) -> None:
        self.kind, self.where = FIELDS[name].kind, f"column:{column}"
        self._column = Column(parts, column)
        held = self._column.kind
        if not _fits(self.kind, held):
            raise UserError(
                f"data.fields.{name}={self.where}: the column holds {held}, and {name} is a field of kind {self.kind}; "
                "name another column"
            )
        self.most = most or (held.width // (4 if self.kind == "boxes" else 1)) or KINDS[self.kind].most
        self.shape = shape(KINDS[self.kind], self.most)

    @cached_property
    def counts(self) -> Ints:
        """Number of samples of each class, [classes]; empty where the classes are no small numbers from 0 on."""
        held = self._column.kind
        if self.kind != "class" or held.dtype not in INTEGERS:
            return np.zeros(0, np.int64)
        found = self._column.values(np.arange(len(self._column)))
        if not len(found) or found.min() < -1 or not -1 < found.max() < MOST_CLASSES:
            return np.zeros(0, np.int64)
        return np.bincount(found[found >= 0])

    @property
    def classes(self) -> int:
        """Number of classes, 0 where they are no small numbers."""
        return len(self.counts)

    def value(self, sample: Sample, number: int, lost: list[Fault]) -> Any:
        """Return what the column says of the sample; entries behind the last are padded. Raises Fault."""
        found = values.convert(self.kind, self._said(number), self.where, self.most, lost)
        return _padded(self.kind, found, self.shape)

    def _said(self, number: int) -> Any:
        """Return the value as JSON would have it, None where it is missing."""
        held, one = self._column.kind, self._column.values([number])
        if not held.width:
            return None if held.is_missing(one)[0] else one.tolist()[0]
        parts = one.reshape(-1, 4) if self.kind == "boxes" else one.reshape(-1)
        missing = np.isnan(parts).all(1) if self.kind == "boxes" else parts == held.missing
        return parts[~missing].tolist()


class OfSource:
    """The number of the sample's source, or with `only` whether it is of this one."""

    shape: tuple[int, ...] = ()

    def __init__(self, parts: Sequence[Shards], only: int | None) -> None:
        self._begins, self._only = bounds(parts), only
        self.classes = 0 if only is not None else len(parts)
        self.counts = np.diff(self._begins) if only is None else np.zeros(0, np.int64)

    def value(self, sample: Sample, number: int, lost: list[Fault]) -> Any:
        """Return it."""
        source = int(np.searchsorted(self._begins, number, side="right")) - 1
        return source if self._only is None else source == self._only


class Nearest:
    """Cluster labels."""

    def __init__(self, parts: Sequence[Shards], name: str) -> None:
        self._clusters = Clusters(parts, name)
        self.shape: tuple[int, ...] = (self._clusters.top,)
        self.classes = self._clusters.count

    def value(self, sample: Sample, number: int, lost: list[Fault]) -> Any:
        """Return the nearest clusters. Raises Fault."""
        return self._clusters.of(number)


def members(config: DataConfig) -> dict[str, Member]:
    """Return the readers of those fields that stand in the samples themselves, by name."""
    given = config.given()
    inside = {name: one for name, one in given.items() if one.values.partition(":")[0] not in PLACES}
    return {name: Member(FIELDS[name].kind, one.values, one.most) for name, one in inside.items()}


def check_asked(config: DataConfig, needs: Iterable[str]) -> None:
    """Raise ConfigError where what is needed is of a batch field, a pixel set or captions that the config lacks."""
    given, sets, needed = config.given(), config.pixel_sets(), sorted(needs)
    asked = [name for name in needed if name in FIELDS and not FIELDS[name].always]
    faults = [lacking(name) for name in asked if name not in given]
    for pixels in [name for name in SETS if name not in sets]:
        if seen := [name for name in needed if FEATURES[name].pixels == pixels]:
            faults.append(lacking_set(seen, pixels))
    if not config.text_sources and (told := [name for name in needed if name in ("has_text", "text_sources")]):
        faults.append(
            f"data.text_sources: an objective or provider asks for {', '.join(told)} (captions of different origin), "
            "and there are none; write data.text_sources=[txt,json:FIELD]"
        )
    if faults:
        raise ConfigError("\n".join(faults))


def build(config: DataConfig, parts: Sequence[Shards]) -> dict[str, Reader]:
    """Return a reader for every field of the batch, by name. Raises UserError where a column cannot be read."""
    found: dict[str, Reader] = {}
    inside, sources = members(config), list(config.sources())
    for name, row in FIELDS.items():
        one = config.given().get(name)
        if one is None:
            if row.always:
                found[name] = Constant(KINDS[row.kind].missing)
            continue
        place, _, rest = one.values.partition(":")
        if place == "source":
            found[name] = OfSource(parts, sources.index(rest) if rest else None)
        elif place == "column":
            found[name] = _column(parts, name, rest, one.most)
        else:
            found[name] = inside[name]
    return found


def _column(parts: Sequence[Shards], name: str, column: str, most: int) -> Reader:
    if FIELDS[name].kind == "clusters":
        return Nearest(parts, column)
    return InColumn(parts, name, column, most)


def _fits(kind: str, held: columns.Kind) -> bool:
    """Whether values that a column holds are of a kind."""
    text, whole = held.dtype == "string", held.dtype in INTEGERS
    if kind == "boxes":
        return held.width > 0 and held.width % 4 == 0 and not whole
    if kind == "tags":
        return text or whole
    return held.width == 0 and (text or whole if kind == "class" else not text)


def _padded(kind: str, found: Any, shape: tuple[int, ...]) -> Any:
    if not shape:
        return found
    padded = np.full(shape, KINDS[kind].missing, KINDS[kind].dtype)
    if found:
        padded[: len(found)] = found
    return padded


def labels(parts: Sequence[Shards], column: str) -> Ints:
    """Return the whole number that a column says of each sample, -1 for none, [samples]; orders group by it.

    Of several numbers (cluster labels) it is the first, of texts one for each text.
    """
    indices = [index for part in parts for index in part.indices]
    if not all(find(index, column) for index in indices):
        return Clusters(parts, column).nearest.astype(np.int64)
    whole = Column(parts, column)
    if whole.kind.dtype not in (*INTEGERS, "string"):
        raise UserError(
            f"data.order: the column {column} holds {whole.kind}, and labels are whole numbers or texts; name another"
        )
    found = whole.values(np.arange(len(whole)))
    if whole.kind.dtype == "string":
        names, found = np.unique(found.astype(str), return_inverse=True)
        return np.where(names[found] == "", -1, found).astype(np.int64)
    return (found[:, 0] if found.ndim > 1 else found).astype(np.int64)


def shape(kind: Kind, most: int) -> tuple[int, ...]:
    """Return the shape of a sample's value."""
    return tuple(int(letter) if letter.isdigit() else most for letter in kind.letters[1:])


def arrays(readers: Mapping[str, Reader], count: int) -> dict[str, NDArray[Any]]:
    """Return arrays for the fields of `count` rows, all of them blank."""
    kinds = {name: KINDS[FIELDS[name].kind] for name in readers}
    return {name: np.full((count, *readers[name].shape), k.blank, k.dtype) for name, k in kinds.items()}
