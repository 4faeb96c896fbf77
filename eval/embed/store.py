"""Embeddings by content: one row for each distinct image or text, in memory, and on disk where a folder is given.

The key is the hash of the bytes that were embedded, in a folder named by the hash of the weights and the transform:
never a name, so a new checkpoint at an old path is not mistaken for the old one, and an image that several sets
share is computed once. Files are those of columns (mmclr/data/columns/file.py) with a digest beside each row, mapped
into memory; those of safetensors that earlier versions wrote are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmclr.eval.embed import ranks
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from mmclr.data.columns import file
from mmclr.data.shards.cache import cache_folder
from mmclr.errors import note
from mmclr.storage.whole_file import whole

DIGEST = 16  # bytes of SHA-256 that tell contents apart


class Store:
    """Rows [D] by digest. What is added lies in memory until `flush` writes it; what was written is mapped."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._place: dict[bytes, tuple[int, int]] = {}  # block, row in it
        self._blocks: list[NDArray[Any]] = []
        for digests, rows in _kept(folder) if folder else ():
            self._take(digests, rows)
        self._written = len(self._place)  # rows that are on disk

    def __contains__(self, digest: object) -> bool:
        return digest in self._place

    def add(self, digests: Sequence[bytes], rows: Tensor) -> None:
        """Add rows [n, D]; a digest that is known keeps its first row."""
        new = [i for i, digest in enumerate(digests) if digest not in self._place]
        distinct = {digests[i]: i for i in reversed(new)}
        order = sorted(distinct.values())
        if order:
            self._take([digests[i] for i in order], rows[order].numpy())

    def get(self, digests: Sequence[bytes]) -> Tensor:
        """Return the rows [n, D] of known digests."""
        block, row = np.array([self._place[digest] for digest in digests], np.int64).reshape(-1, 2).T
        out = np.empty((len(digests), *self._blocks[0].shape[1:]), self._blocks[0].dtype)
        for which in np.unique(block).tolist():
            mine = block == which
            out[mine] = self._blocks[which][row[mine]]
        return torch.from_numpy(out)

    def flush(self) -> None:
        """Write what is not on disk yet (the first process does); a reader sees the whole file or none.

        Where it cannot be written the evaluation goes on without, and that is said once.
        """
        if self.folder is None or len(self._place) == self._written or not ranks.speaks():
            return
        try:
            self._write(self.folder, list(self._place)[self._written :])
        except OSError as error:
            note(f"{self.folder}: embeddings cannot be kept there ({error}); this evaluation goes on without")
            self.folder = None
            return
        self._written = len(self._place)

    def _take(self, digests: Sequence[bytes], rows: NDArray[Any]) -> None:
        for row, digest in enumerate(digests):
            self._place.setdefault(digest, (len(self._blocks), row))
        self._blocks.append(rows)

    def _write(self, folder: Path, new: list[bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        digests = np.frombuffer(b"".join(new), np.uint8).reshape(-1, DIGEST)
        with whole(folder / f"{new[0].hex()}-{len(new)}.arrow") as target:
            file.save(target, {"digest": digests, "value": self.get(new).numpy()}, {"features": folder.name})


def _kept(folder: Path) -> Iterator[tuple[list[bytes], NDArray[Any]]]:
    """Yield digests and rows of each file of a folder; of a disk that was full, or another user's, none."""
    for path in sorted([*folder.glob("*.arrow"), *folder.glob("*.safetensors")]):
        try:
            digests: NDArray[Any]
            if path.suffix == ".arrow":
                arrays = file.load(path).arrays
                digests, rows = arrays["digest"], arrays["value"]
            else:
                arrays = load_file(path)
                digests, rows = arrays["digests"], arrays["rows"]
        except (SafetensorError, file.Damaged, OSError, KeyError):
            continue
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and np.shape(digests) == (len(rows), DIGEST):
            yield [bytes(digest) for digest in digests], np.asarray(rows)


def standard() -> Path | None:
    """Return the folder of this user's embeddings; None for a user without a home."""
    folder = cache_folder()
    return folder / "embeddings" if folder else None
