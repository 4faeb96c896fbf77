"""Embeddings of the images of shards, which may be kept as a column, so that each is computed once for all tools."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmclr.eval.embed.embedder import facts
from rich.progress import Progress
from torch import Tensor

from mmclr.data import columns
from mmclr.data.columns import Kind
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.workers import run_ahead
from mmclr.display.console import Console
from mmclr.encoder import Encoder, Prepared
from mmclr.load_model import open_model

Advance = Callable[[int], object]


class Kept(NamedTuple):
    """The column that embeddings are kept in: its name, its numbers' dtype, and what they were made by."""

    name: str
    dtype: str
    facts: dict[str, str]


def load(model: str | Path, device: str, keep: str = "", dtype: str = "float32") -> tuple[Encoder, Kept | None]:
    """Open a model, and say in which column its embeddings are kept (None without `keep`)."""
    found = open_model(model)
    encoder = Encoder(found.model, Tokenizer.load(found.folder, found.model.config.text.context), device)
    if not keep:
        return encoder, None
    return encoder, Kept(keep, dtype, facts(found))


def embed(
    encoder: Encoder, shards: Shards, batch: int, ledger: Ledger | None = None, kept: Kept | None = None
) -> tuple[Tensor, list[int]]:
    """Return the unit vectors [n, D] of all readable images, and their numbers; the others go into `ledger`.

    With `kept` shard by shard: where the column is there it is read, where it is not it is written, so that a call that
    was ended goes on at the shard where it was. An image that cannot be read has no embedding there: NaN.
    Raises UserError where the column holds the embeddings of another model.
    """
    ledger = ledger if ledger is not None else Ledger()
    if kept:
        for index in shards.indices:
            columns.refuse_others(index, kept.name, kept.facts)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        bar = bars.add_task("embedding", total=len(shards))

        def advance(count: int) -> None:
            bars.advance(bar, count)

        if kept is None:
            return _computed(encoder, shards, range(len(shards)), batch, ledger, advance)
        found, begin = [], 0
        for which, index in enumerate(shards.indices):
            rows = shards.rows(which)
            rows = np.arange(len(index)) if rows is None else rows
            numbers = range(begin, begin := begin + len(rows))
            if columns.holds(index, kept.name, kept.facts):
                found.append(_read(shards, index, numbers, rows, kept.name, ledger))
                advance(len(numbers))
                continue
            vectors, good = _computed(encoder, shards, numbers, batch, ledger, advance)
            kind = Kind(kept.dtype, encoder.model.config.embed)
            with columns.write(index, kept.name, kind, kept.facts) as column:
                column.put(rows[np.array(good, np.int64) - numbers.start], vectors.numpy().reshape(-1, kind.width))
            found.append((vectors.to(getattr(torch, kept.dtype)).float(), good))
    some = [vectors for vectors, good in found if good]
    return torch.cat(some) if some else torch.empty(0, 1), [number for _, good in found for number in good]


def _computed(
    encoder: Encoder, shards: Shards, numbers: Sequence[int], batch: int, ledger: Ledger, advance: Advance
) -> tuple[Tensor, list[int]]:
    def read(first: int) -> list[tuple[int, Prepared | Fault]]:
        return [(number, _image(encoder, shards, number)) for number in numbers[first : first + batch]]

    rows, kept = list[Tensor](), list[int]()
    for found in run_ahead(read, range(0, len(numbers), batch), workers=0):
        good = [(number, image) for number, image in found if not isinstance(image, Fault)]
        ledger.add(shards.entry(number, image) for number, image in found if isinstance(image, Fault))
        if good:
            rows.append(encoder.encode_seen([image for _, image in good], batch=batch, output="torch"))
        kept += [number for number, _ in good]
        advance(len(found))
    return torch.cat(rows) if rows else torch.empty(0, 1), kept


def _read(
    shards: Shards, index: ShardIndex, numbers: Sequence[int], rows: np.ndarray, name: str, ledger: Ledger
) -> tuple[Tensor, list[int]]:
    """Return the embeddings of a shard's samples that a column has, and their numbers."""
    found, values = columns.open_column(index, name)
    mine = np.asarray(values)[rows].astype(np.float32)
    missing = Kind("float32", mine.shape[1]).is_missing(mine)
    none = Fault("unreadable", f"it has no embedding in {found.path.name}")
    ledger.add(shards.entry(numbers[at], none) for at in np.flatnonzero(missing).tolist())
    return torch.from_numpy(mine[~missing]), [numbers[at] for at in np.flatnonzero(~missing).tolist()]


def _image(encoder: Encoder, shards: Shards, number: int) -> Prepared | Fault:
    """Return an image, a Fault where there is none that can be read."""
    try:
        sample = shards.read(number)
        return encoder.prepare(sample.image(encoder.medium.members), sample.members)
    except Fault as fault:
        return fault
