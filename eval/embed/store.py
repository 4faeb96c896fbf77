"""Embeddings by content: one row for each distinct picture or text, in memory, and on disk where a folder is given.

The key is the hash of the bytes that were embedded, in a folder named by the hash of the weights and the transform:
never a name, so a new checkpoint at an old path is not mistaken for the old one, and a picture that several sets
share is computed once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmclr.eval.embed import ranks
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmclr.data.shards.cache import cache_folder
from mmclr.errors import note

DIGEST = 16  # bytes of SHA-256 that tell contents apart


class Store:
    """Rows [D] by digest. What is added lies in memory until `flush` writes it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._row: dict[bytes, int] = {}
        self._blocks: list[Tensor] = []
        self._written = 0  # rows that are on disk
        for path in sorted(folder.glob("*.safetensors")) if folder else []:
            try:
                block = load_file(path)
            except (SafetensorError, OSError):
                continue  # of a disk that was full, or of another user
            self.add([bytes(digest) for digest in block["digests"].numpy()], block["rows"])
        self._written = len(self._row)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._row

    def add(self, digests: Sequence[bytes], rows: Tensor) -> None:
        """Add rows [n, D]; a digest that is known keeps its first row."""
        new = [i for i, digest in enumerate(digests) if digest not in self._row]
        distinct = {digests[i]: i for i in reversed(new)}
        order = sorted(distinct.values())
        begin = len(self._row)
        self._row.update((digests[i], begin + n) for n, i in enumerate(order))
        if order:
            self._blocks.append(rows[order])

    def get(self, digests: Sequence[bytes]) -> Tensor:
        """Return the rows [n, D] of known digests."""
        if len(self._blocks) > 1:
            self._blocks = [torch.cat(self._blocks)]
        return self._blocks[0][[self._row[digest] for digest in digests]]

    def flush(self) -> None:
        """Write what is not on disk yet (the first process does); a reader sees the whole file or none.

        Where it cannot be written the evaluation goes on without, and that is said once.
        """
        if self.folder is None or len(self._row) == self._written or not ranks.speaks():
            return
        try:
            self._write(self.folder, list(self._row)[self._written :])
        except (OSError, SafetensorError) as error:
            note(f"{self.folder}: embeddings cannot be kept there ({error}); this evaluation goes on without")
            self.folder = None
            return
        self._written = len(self._row)

    def _write(self, folder: Path, new: list[bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        digests = torch.from_numpy(np.frombuffer(b"".join(new), np.uint8).reshape(-1, DIGEST).copy())
        path = folder / f"{new[0].hex()}-{len(new)}.safetensors"
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as beside:  # other machines may have this pid
            partial = Path(beside) / path.name
            save_file({"digests": digests, "rows": self.get(new).contiguous()}, partial)
            os.replace(partial, path)


def standard() -> Path | None:
    """Return the folder of this user's embeddings; None for a user without a home."""
    folder = cache_folder()
    return folder / "embeddings" if folder else None
