"""Being asked to stop: the first SIGTERM, Ctrl-C or hang-up ends the run after the current step, with a checkpoint.

A run that was stopped before its last step ends with status 128 + the signal's number (130 after Ctrl-C, 143 after
SIGTERM, 129 after a terminal that hung up), as if the signal had ended it: whoever started it can tell that it is to be
started again. One that has taken its last step ends with 0.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Catches signals while a run is on; a second Ctrl-C interrupts at once. What was ignored stays so (nohup)."""

    def __init__(self) -> None:
        self.name = ""  # of the signal that came
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return bool(self.name)

    def __enter__(self) -> Stop:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


def status(name: str) -> int:
    """Return the exit status of a run that a signal stopped; 0 where none did."""
    return 128 + signal.Signals[name] if name else 0
