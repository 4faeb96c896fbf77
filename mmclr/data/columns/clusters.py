"""Cluster labels of samples, written beside their shards by `mmclr data cluster`.

SHARD.NAME.npy holds the nearest clusters of each sample of a shard, int32 [samples, top], the nearest first and -1 for
samples without a picture; NAME.clusters.json in the same folder says how many clusters there are. A name with a folder,
FOLDER/NAME, means files there, which is where those of remote shards must be.
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

from mmclr.data.samples.skipped import Fault
from mmclr.data.shards import sources
from mmclr.data.shards.addresses import base
from mmclr.data.shards.index import Ints, ShardIndex
from mmclr.data.shards.shards import Shards, bounds
from mmclr.errors import UserError
from mmclr.storage import written

Labels = NDArray[np.int32]
MAKE = "make them with mmclr data cluster"
KIND = "cluster labels"


def place(url: str, name: str) -> Path:
    """Return where the labels of a shard are."""
    folder, _, plain = name.rpartition("/")
    if sources.is_remote(url) and not folder:
        raise UserError(f"{url}: labels cannot lie beside a remote shard; name a folder for them, FOLDER/{name}")
    path = Path(base(url) if sources.is_remote(url) else sources.local(url))
    return (Path(folder) if folder else path.parent) / f"{path.name}.{plain}.npy"


def write(indices: Sequence[ShardIndex], name: str, labels: Sequence[Labels], facts: dict[str, Any]) -> list[Path]:
    """Write the labels of each shard's samples, and beside them `facts`; return the files of labels."""
    paths = [place(index.url, name) for index in indices]
    if len(set(paths)) < len(paths):
        raise UserError(f"{paths[0].parent}: several shards have the same name; their labels need folders of their own")
    for path, rows in zip(paths, labels):
        with written.staged(path, KIND) as partial, open(partial, "wb") as file:
            np.save(file, np.ascontiguousarray(rows, np.int32))
    for folder in {path.parent for path in paths}:
        written.write(_facts(folder, name), json.dumps(facts, indent=2) + "\n", KIND)
    return paths


def check(indices: Sequence[ShardIndex], name: str) -> None:
    """Raise UserError where labels of these shards could not be written."""
    for index in indices:
        path = place(index.url, name)
        written.check(path, KIND)
        written.check(_facts(path.parent, name), KIND)


class Clusters:
    """The labels of all samples of a run's sources, by number; files are mapped when they are needed."""

    def __init__(self, parts: Sequence[Shards], name: str) -> None:
        self.parts, self.name = list(parts), name
        self.begins = bounds(self.parts)
        counts = {
            folder: _read_facts(folder, name)
            for folder in {place(i.url, name).parent for part in parts for i in part.indices}
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} in {folder}" for folder, count in counts.items())
            raise UserError(
                f"data: the labels {name} have different numbers of clusters ({told}); {MAKE} for all shards"
            )
        self.count = next(iter(counts.values()))
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

    def _mapped(self, part: int, shard: int) -> Labels:
        index = self.parts[part].indices[shard]
        path = place(index.url, self.name)
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


def groups(nearest: Sequence[Labels]) -> Ints:
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


def _facts(folder: Path, name: str) -> Path:
    return folder / f"{name.rpartition('/')[2]}.clusters.json"


def _read_facts(folder: Path, name: str) -> int:
    path = _facts(folder, name)
    try:
        return int(json.loads(path.read_text())["clusters"])
    except OSError:
        raise UserError(f"data: there are no cluster labels {name} ({path} is missing); {MAKE}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise UserError(f"{path}: cannot be read; {MAKE} anew") from None
