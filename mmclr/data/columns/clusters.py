"""Cluster labels of samples: columns of their nearest clusters, which `mmclr data cluster` writes.

The column holds int32 vectors [top], the nearest cluster first and -1 for samples without an image; its facts say how
many clusters there are. Labels that earlier versions wrote are read, too: SHARD.NAME.npy beside NAME.clusters.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.data import columns
from mmclr.data.columns import Kind
from mmclr.data.columns.kind import INTEGERS
from mmclr.data.columns.of_shard import find, look, open_column
from mmclr.data.samples.skipped import Fault
from mmclr.data.shards import sources
from mmclr.data.shards.addresses import base, identity
from mmclr.data.shards.index import Ints, ShardIndex
from mmclr.data.shards.shards import Shards, bounds
from mmclr.errors import UserError

Labels = NDArray[np.int32]
MAKE = "make them with mmclr data cluster"


def write(indices: Sequence[ShardIndex], name: str, labels: Sequence[Labels], facts: dict[str, Any]) -> list[Path]:
    """Write the labels [samples, top] of each shard as columns with `facts`; return their files."""
    for index, rows in zip(indices, labels):
        with columns.write(index, name, Kind("int32", rows.shape[1]), facts) as column:
            column.put(np.arange(len(index)), rows)
    return [look(index, name).path for index in indices]


class Clusters:
    """The labels of all samples of a run's sources, by number; files are mapped when they are needed."""

    def __init__(self, parts: Sequence[Shards], name: str) -> None:
        self.parts, self.name = list(parts), name
        self.begins = bounds(self.parts)
        counts: dict[int, str] = {}  # and the first shard of each; 0: its maker did not say
        for index in (index for part in self.parts for index in part.indices):
            counts.setdefault(_count(index, name), identity(index.url))
        if len(counts) > 1:
            told = ", ".join(f"{count or 'not told'} of {shard}" for count, shard in counts.items())
            raise UserError(
                f"data: the labels {name} have different numbers of clusters ({told}); {MAKE} for all shards"
            )
        self.count = next(iter(counts)) or self._largest() + 1
        self.top = self._mapped(0, 0).shape[1]
        self._open: dict[tuple[int, int], Labels] = {}

    def of(self, number: int) -> Labels:
        """Return the nearest clusters [top] of a sample. Raises Fault when they are none of the clusters."""
        part = int(np.searchsorted(self.begins, number, side="right")) - 1
        shard, row = self.parts[part].locate(number - int(self.begins[part]))
        if (part, shard) not in self._open:
            self._open[part, shard] = self._mapped(part, shard)
        found = self._open[part, shard][row]
        if (found < -1).any() or (found >= self.count).any():
            raise Fault("bad_label", f"its labels {self.name} are {found.tolist()}, of {self.count} clusters")
        return found

    @cached_property
    def nearest(self) -> Labels:
        """The nearest cluster of every sample, [samples]."""
        found = []
        for number, part in enumerate(self.parts):
            for shard in range(len(part.indices)):
                labels = self._mapped(number, shard)[:, 0]
                rows = part.rows(shard)
                found.append(labels if rows is None else labels[rows])
        return np.concatenate(found)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps for itself

    def _largest(self) -> int:
        """Return the largest label, for labels that came from a table."""
        every = ((part, shard) for part, row in enumerate(self.parts) for shard in range(len(row.indices)))
        return max(int(self._mapped(part, shard).max(initial=0)) for part, shard in every)

    def _mapped(self, part: int, shard: int) -> Labels:
        index = self.parts[part].indices[shard]
        if find(index, self.name) is None and _old_place(index.url, self.name):
            return _old_labels(index, self.name)
        found, values = open_column(index, self.name)
        labels = np.asarray(values)
        return labels if labels.ndim == 2 else labels[:, None]


def groups(nearest: Sequence[NDArray[Any]]) -> Ints:
    """Return one number per sample that only samples share whose labels of every stage are the same, [samples].

    A sample that has no label (-1) in some stage is alone: nobody knows what it is like.
    """
    labels = np.stack(nearest, 1)
    found, numbers = np.unique(labels, axis=0, return_inverse=True)
    missing = np.flatnonzero((labels < 0).any(1))
    numbers = numbers.astype(np.int64)
    numbers[missing] = len(found) + np.arange(len(missing))
    return numbers


def digest(labels: NDArray[Any]) -> str:
    """Return a hash of labels."""
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()[:16]


def _count(index: ShardIndex, name: str) -> int:
    """Return how many clusters a shard's labels tell apart, 0: not told. Raises UserError where it has none."""
    if find(index, name) is None:
        if _old_place(index.url, name):
            return _old_count(index.url, name)
        raise UserError(f"data: there are no cluster labels {name} of {identity(index.url)}; {MAKE}")
    found = look(index, name)
    if found.kind is None or found.kind.dtype not in INTEGERS:
        raise UserError(f"{found.path}: labels are whole numbers, not {found.kind}; {MAKE}")
    count = found.facts.get("clusters", 0)
    if not isinstance(count, int) or count < 0:
        raise UserError(f"{found.path}: {str(count)[:40]!r} is no number of clusters; {MAKE} anew")
    return count


def _old_place(url: str, name: str) -> Path | None:
    """Return where earlier versions wrote the labels of a shard, None where neither they nor their facts are."""
    folder, _, plain = name.rpartition("/")
    if sources.is_remote(url) and not folder:
        return None
    path = Path(base(url) if sources.is_remote(url) else sources.local(url))
    path = (Path(folder) if folder else path.parent) / f"{path.name}.{plain}.npy"
    return path if path.exists() or _old_facts(path, plain).exists() else None


def _old_facts(path: Path, plain: str) -> Path:
    return path.parent / f"{plain}.clusters.json"


def _old_count(url: str, name: str) -> int:
    place = _old_place(url, name)
    assert place
    path = _old_facts(place, name.rpartition("/")[2])
    try:
        return int(json.loads(path.read_text())["clusters"])
    except OSError:
        raise UserError(f"data: there are no cluster labels {name} ({path} is missing); {MAKE}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise UserError(f"{path}: cannot be read; {MAKE} anew") from None


def _old_labels(index: ShardIndex, name: str) -> Labels:
    path = _old_place(index.url, name)
    assert path
    try:
        labels: Labels = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, SyntaxError):
        raise UserError(f"{path}: no file of labels; {MAKE} anew") from None
    except OSError:
        raise UserError(f"{path}: there are no labels of this shard; {MAKE}") from None
    if labels.ndim != 2 or labels.dtype.kind != "i" or not labels.shape[1]:
        kind = f"{labels.dtype} of shape {list(labels.shape)}"
        raise UserError(f"{path}: labels are whole numbers [samples, clusters], not {kind}; {MAKE} anew")
    if len(labels) != len(index):
        raise UserError(f"{path}: labels of {len(labels)} samples, the shard has {len(index)}; {MAKE} anew")
    return labels
