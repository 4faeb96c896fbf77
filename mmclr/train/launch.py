"""Make `accelerate launch --num_processes N` mean N processes on a machine without accelerators too.

Without a config file, accelerate starts one process there and only hints at N in its environment. And whoever
starts several processes may die first (kill -9): the others must not go on writing to the run's folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import torch


def start_missing_processes(argv: list[str]) -> int | None:
    """Start the processes that accelerate was asked for but did not start; return their exit status, else None."""
    if "WORLD_SIZE" in os.environ:
        die_with_parent()
    count = _asked_for()
    if count < 2:
        return None
    from torch.distributed.run import main

    die_with_parent()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    address = ["--master_addr", os.environ["MASTER_ADDR"], "--master_port", os.environ["MASTER_PORT"]]
    try:
        main(["--nproc_per_node", str(count), *address, "--module", "mmclr.train", *argv])
    except torch.distributed.elastic.multiprocessing.errors.ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    return 0


def die_with_parent() -> None:
    """Ask Linux to send SIGTERM to this process when its parent dies; elsewhere do nothing."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _asked_for() -> int:
    """Return N if accelerate's simple launcher was asked for N > 1 processes and started this one alone, else 0."""
    alone = (
        "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ
    )
    if not alone or torch.cuda.is_available():
        return 0
    import psutil  # accelerate depends on it

    words = [word.replace("_", "-") for word in psutil.Process(os.getppid()).cmdline()]
    for word, following in zip(words, [*words[1:], ""]):
        name, _, value = word.partition("=")
        if name == "--num-processes":
            return int(value or following)
    return 0
