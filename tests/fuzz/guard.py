"""One case of a fuzz, watched: what it raises, how long it takes, how much memory it takes beside what is healthy."""

import resource
import signal
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

from mmclr.errors import UserError

SECONDS = 10.0  # of this process on a CPU: others may be busy
WALL = 300  # for what waits, for a lock or a pipe
BYTES = 1 << 30


class Case(NamedTuple):
    """A case; `files` are what it needs to be tried again, `run` raises where something is wrong."""

    name: str
    files: dict[str, bytes]
    run: Callable[[], None]


class Outcome(NamedTuple):
    """What came of a case."""

    wrong: str  # "", or "traceback", "hang", "memory"
    said: str
    peak: int  # bytes in memory at once
    seconds: float  # on a CPU


class Hang(BaseException):
    """A case goes on for too long; no `except Exception` stops it."""


def outcome(run: Callable[[], None], healthy: int = 0) -> Outcome:
    """Run a case. A UserError is as good an end as any."""
    wrong = said = ""
    reset_peak()
    before, least = _cpu(), peak_bytes(name="VmRSS")  # freed memory may have stayed with the process
    try:
        with _alarms():
            run()
    except UserError as error:
        said = str(error)
        wrong = "" if said else "traceback"
    except Hang:
        wrong, said = "hang", traceback.format_exc()
    except KeyboardInterrupt:
        raise
    except BaseException:
        wrong, said = "traceback", traceback.format_exc()
    peak = peak_bytes()
    if not wrong and healthy and peak - max(healthy, least) > BYTES:
        wrong, said = "memory", f"{peak - healthy:,} bytes more than a healthy case takes"
    return Outcome(wrong, said, peak, _cpu() - before)


@contextmanager
def _alarms():
    def ring(number, frame):
        raise Hang

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WALL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def reset_peak() -> None:
    """Let the peak begin at what is in memory now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_bytes(pid: int | str = "self", name: str = "VmHWM") -> int:
    """Return the most bytes that a process has had in memory, or with VmRSS those that it has now."""
    with open(f"/proc/{pid}/status") as file:
        return next((1024 * int(line.split()[1]) for line in file if line.startswith(name)), 0)
