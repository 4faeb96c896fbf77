"""Shares of a run's time: samples a second, the share spent waiting for data, what is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psutil
import torch

from mmclr.data.stream.loader import Batch


class Clock:
    """Measures between two readings."""

    def __init__(self, batch: int) -> None:
        """`batch` is the global batch."""
        self.batch = batch
        self.started = time.monotonic()
        self.waited, self.steps = 0.0, 0

    def wait(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch, and count how long that took."""
        start = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - start
        self.steps += 1
        return batch

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out what happens in this context."""
        start = time.monotonic()
        yield
        self.started += time.monotonic() - start

    def read(self, step: int, steps: int) -> dict[str, float]:
        """Return samples_per_s, data_wait (a share), left_s and memory_gib since the last reading, and start anew."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.steps / seconds
        row = {
            "samples_per_s": round(rate * self.batch, 1),
            "data_wait": round(self.waited / seconds, 4),
            "left_s": round((steps - step) / max(rate, 1e-9), 1),
            "memory_gib": round(memory() / 2**30, 3),
        }
        self.started, self.waited, self.steps = time.monotonic(), 0.0, 0
        return row


def memory() -> int:
    """Return the bytes that this process holds: at their peak on a GPU, now in the host's memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    used: int = psutil.Process().memory_info().rss
    return used
