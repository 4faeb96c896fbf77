"""Being asked to stop: the first SIGTERM or Ctrl-C ends the run after the current step, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType


class Stop:
    """Catches SIGTERM and SIGINT while a run is on; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.name = ""  # of the signal that came
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return bool(self.name)

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
