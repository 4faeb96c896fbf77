"""Let threads of OpenMP sleep while they wait for work.

By default they spin, in the hope of work within milliseconds. Beside another busy process the one that all wait for is
then kept off its core by those that wait: a small model's step took 17 times as long on two cores.
"""

from __future__ import annotations

import os
import sys

OURS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
SHORT = 1000  # turns of a loop, microseconds


def let_threads_sleep() -> None:
    """Set the policy for this process and those that it starts, unless the user has set one.

    The library reads it once, when torch loads it: after that this does nothing.
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        for name, value in OURS.items():
            os.environ.setdefault(name, value)


def threads_spin() -> bool:
    """Whether threads that wait keep a core busy, as far as the environment tells."""
    if (turns := os.environ.get("GOMP_SPINCOUNT", "")).isdigit():
        return int(turns) > SHORT
    return os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive"
