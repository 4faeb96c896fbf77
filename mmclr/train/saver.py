"""Saving a run and going on from what was saved: when, what, and in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from mmclr import parallel
from mmclr.train import checkpoint
from mmclr.train.checkpoint import Snapshot
from mmclr.train.settings import SaveConfig


class Saver:
    """Writes the checkpoints of one run. Only `main` touches the disk; all ranks must make the same calls."""

    def __init__(self, config: SaveConfig, out: Path, main: bool) -> None:
        self.config, self.out, self.main = config, out, main
        self.best: dict[str, Any] = {}  # step, value
        self._saved = time.monotonic()
        self._writing: threading.Thread | None = None
        self._failed: BaseException | None = None

    def due(self, step: int) -> bool:
        """Whether to save now, decided together: clocks differ between ranks."""
        c = self.config
        if c.every_steps and step % c.every_steps == 0:
            return True
        return bool(c.every_minutes) and parallel.agree(time.monotonic() - self._saved > 60 * c.every_minutes)

    def improves(self, step: int, metrics: dict[str, float]) -> bool:
        """Take in what an evaluation measured; say whether it is the best so far by `config.best`."""
        value = metrics.get(self.config.best.removeprefix("-"))
        if value is None:
            return False
        sign = -1 if self.config.best.startswith("-") else 1
        if self.best and sign * value <= sign * self.best["value"]:
            return False
        self.best = {"step": step, "value": value}
        return True

    def save(self, step: int, take: Callable[[], Snapshot | None]) -> Path:
        """Take a snapshot and write it in the background, after the one before it is written."""
        self.wait()
        snapshot = take()
        self._saved = time.monotonic()
        folder = checkpoint.folder_of(self.out, step)
        if snapshot is not None:
            self._writing = threading.Thread(target=self._write, args=(snapshot, folder), name="checkpoint")
            self._writing.start()
        return folder

    def wait(self) -> None:
        """Return when everything is on the disk; raise what went wrong there."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failed is not None:
            raise self._failed

    def _write(self, snapshot: Snapshot, folder: Path) -> None:
        try:
            snapshot.write(folder)
            checkpoint.prune(self.out, self.config.keep, self.best.get("step"))
        except BaseException as error:
            self._failed = error


def copied(value: Tensor) -> Tensor:
    """Return a copy in host memory that shares nothing with `value`."""
    return value.detach().to("cpu", copy=True).contiguous()
