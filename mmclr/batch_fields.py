"""Two tables of what a batch has of each sample beside its image and captions: batch fields, and pixel sets.

A field is a row of FIELDS: its kind, what it means, and the short form of `data.fields.NAME` where there is one. A kind
says how its values lie in a batch, and has a reader in `mmclr.data.samples.values`. The vocabulary takes its rows from
here, the config its names, the loader its arrays: a new batch field is one line of FIELDS.

A pixel set is further pixels of each sample, [b, n, C, H, W], which the image tower sees beside its image, all wanted
ones in one pass: a row of SETS. The vocabulary has its embeddings of the student, the teacher and the frozen model from
there. `data.settings` says how many there are of each, and which are made of the image's own pixels on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Maker = Callable[[Sequence[int], torch.Generator], Tensor]


@dataclass(frozen=True)
class Kind:
    """Values of one sort: their place in a batch, and random ones for laws and dry runs (floats in float64)."""

    letters: tuple[str, ...]  # of the shape, as in the vocabulary
    dtype: str
    missing: float  # of a sample that says nothing
    blank: float  # of a row that is no sample
    make: Maker
    most: int = (
        0  # entries of a sample, unless the config says another number; 0: one value, or as many as a column has
    )


@dataclass(frozen=True)
class Row:
    """One batch field."""

    kind: str
    meaning: str
    short: str = ""  # key of `data:` that is the short form of data.fields.NAME
    always: bool = False  # in every batch, with the kind's `missing` where the config names no values


@dataclass(frozen=True)
class PixelSet:
    """Further pixels of each sample."""

    letter: str  # how many a sample has, as in the vocabulary; "" for one, whose features have no such dimension
    setting: str  # what gives it, as an override of `data:`
    meaning: str
    projected: bool = True  # into the shared space; False: objectives get the tower's features [b, n, H] below that


def _repeats(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randint(0, max(2, 2 * shape[0] // 3), tuple(shape), generator=generator)


def _clusters(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randint(-1, 9, tuple(shape), generator=generator)


def _weights(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64).add(0.5)


def _numbers(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.masked_fill(torch.rand(*shape, generator=generator) < 0.2, torch.nan)


def _flags(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator) < 0.5


def _tags(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return up to as many different tags of 9 as there is room for, those that are missing behind them."""
    scores = torch.rand(shape[0], max(9, shape[1]), generator=generator)
    some = torch.randint(0, shape[1] + 1, (shape[0], 1), generator=generator)
    return scores.argsort(1)[:, : shape[1]].masked_fill(torch.arange(shape[1]) >= some, -1)


def _boxes(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    draws = torch.rand(*shape, generator=generator, dtype=torch.float64)
    first = 0.6 * draws[..., :2]
    some = torch.randint(0, shape[1] + 1, (shape[0], 1, 1), generator=generator)
    boxes = torch.cat([first, first + 0.1 + 0.3 * draws[..., 2:]], -1)
    return boxes.masked_fill(torch.arange(shape[1])[:, None] >= some, torch.nan)


NAN = float("nan")
KINDS: dict[str, Kind] = {
    "class":    Kind(("b",), "int64", -1, -1, _repeats),  # whole numbers, or words, which are hashed
    "number":   Kind(("b",), "float32", NAN, NAN, _numbers),
    "weight":   Kind(("b",), "float32", 1.0, 0.0, _weights),  # at least 0
    "flag":     Kind(("b",), "bool", False, False, _flags),
    "tags":     Kind(("b", "G"), "int64", -1, -1, _tags, most=32),  # several classes of one sample, each once
    "clusters": Kind(("b", "C"), "int64", -1, -1, _clusters),  # of a column, as many as it has
    "boxes":    Kind(("b", "O", "4"), "float32", NAN, NAN, _boxes, most=16),  # left, top, right, bottom in 0 to 1
}  # fmt: skip
FIELDS: dict[str, Row] = {
    "label":    Row("class", "int64 class of the sample, -1 where it is missing", "label", always=True),
    "weights":  Row("weight", "weight of the sample in every mean; 1 where none is given", "weight", always=True),
    "clusters": Row("clusters", "int64 nearest clusters of the image (`mmclr data cluster`), -1 for none", "clusters"),
    "target":   Row("number", "number that belongs to the sample (age, price), NaN where it is missing"),
    "group":    Row("class", "int64 group of samples that belong together (person, recording), -1 for none"),
    "origin":   Row("class", "int64 number of where the sample comes from (its source in data.train)"),
    "replayed": Row("flag", "bool, whether the sample is of an earlier task and trained on again"),
    "domain":   Row("class", "int64 domain of the sample (style, hospital, camera), -1 for none"),
    "tags":     Row("tags", "int64 tags of the sample, each once, then -1"),
    "boxes":    Row("boxes", "left, top, right, bottom of objects in shares of the whole image, then NaN"),
}  # fmt: skip


SETS: dict[str, PixelSet] = {  # what is not projected stands last; image and views draw their patches by themselves
    "views":        PixelSet("V", "views=2", "the data.views further views of each image"),
    "strong_views": PixelSet("V", "view_augments.strong_views.count=1", "strongly changed views of each image"),
    "local_views":  PixelSet("V", "view_augments.local_views.count=4", "views of small parts of each image"),
    "companion":    PixelSet("", "companion=ref.jpg", "the image in the member data.companion of each sample"),
    "generated":    PixelSet("", "generated=gen.jpg", "the image in the member data.generated, made from the sample's"),
    "sharpened":    PixelSet("X", "degrade.sharpen=1", "the data.degrade.sharpen sharpened copies of each image"),
    "blurred":      PixelSet("Q", "degrade.blur=1", "the data.degrade.blur blurred copies of each image"),
    "turned":       PixelSet("1", "turned=rotation", "each image, turned (data.turned)", projected=False),
}  # fmt: skip


def example(kind: Kind, sizes: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return random values [sizes] of a kind, fractions in `dtype`."""
    values = kind.make(sizes, generator)
    return values.to(dtype) if values.is_floating_point() else values


def fault(name: str, values: str, sources: Collection[str]) -> str:
    """Return what is wrong with the address of a field's values, "" for nothing. `sources` are those of data.train."""
    row = FIELDS[name]
    place, _, rest = values.partition(":")
    if row.kind == "clusters":
        return "" if place == "column" and rest else "clusters come from a column: write column:NAME"
    if place == "column":
        return "" if rest else "write column:NAME"
    if place == "source" and rest:
        if row.kind != "flag":
            return f"source:NAME is a flag, and {name} is a {row.kind}; write source for the number of the source"
        return "" if rest in sources else f"data.train has no source {rest!r}; it has {', '.join(sources)}"
    if place == "source" and row.kind != "class":
        return f"source is the number of a source, a class, and {name} is a {row.kind}"
    return "" if place else "name a member (cls), a field of the json (json:x), or column:NAME"


def lacking(name: str) -> str:
    """Return the sentence about a field that is asked for and that the config gives no values."""
    row = FIELDS[name]
    short = f" (or data.{row.short})" if row.short else ""
    return (
        f"data.fields.{name}: an objective asks for {name} ({row.meaning}), and nothing says where it comes from; "
        f"write data.fields.{name}={'column:NAME' if row.kind == 'clusters' else 'json:FIELD or column:NAME'}{short}"
    )


def lacking_set(names: Sequence[str], pixels: str) -> str:
    """Return the sentence about features that are asked for, of a pixel set that the config does not give."""
    row, what = SETS[pixels], ", ".join(names)
    key, _, _ = row.setting.partition("=")
    return (
        f"data.{key}: an objective or provider asks for {what} (of {row.meaning}), and there is none; write "
        f"data.{row.setting}"
    )
