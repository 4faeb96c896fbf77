"""Start several processes of a run on this machine, and see that they end together.

`accelerate launch` starts one process alone where it finds no accelerator and its config does not say MULTI_GPU, and
tells it nothing of the others that were asked for. And whoever starts several processes may die first (kill -9): the
others must not go on writing to the run's folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from mmclr.errors import UserError


def start(processes: int, argv: list[str]) -> int:
    """Run `mmclr train` in so many processes of this machine, by torch's launcher; return their exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    if started():
        raise UserError("--processes: this process was started as one of several already; leave the option out")
    die_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        main(["--standalone", "--nproc_per_node", str(processes), "--module", "mmclr.train", *argv])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _say(rank, failure.exitcode)
    except SignalException as error:  # it was handed on: the processes have saved, said so, and ended as one alone ends
        return 128 + int(error.sigval)
    return 0


def _say(rank: int, status: int) -> int:
    """Say how the first process ended that did not end well; return the exit status of the whole."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        raise UserError(
            f"process {rank} was ended by {name}{hint}, so all have stopped; the same command goes on from the newest "
            "checkpoint"
        )
    return max(1, status)


def die_with_parent() -> None:
    """Ask Linux to send SIGTERM to this process when its parent dies; elsewhere do nothing."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def started() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def check_alone() -> None:
    """Refuse to be the only one of several processes: accelerate names a meeting place where it was asked for more.

    And see that one of several ends when its launcher is gone.
    """
    if "WORLD_SIZE" in os.environ:
        die_with_parent()
    elif "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        raise UserError(
            "accelerate launch was asked for several processes but has started one alone, as it does where it finds no "
            "accelerator, and does not tell it how many; write `mmclr train --processes N ...`, or accelerate launch "
            "--multi_gpu --num_processes N (distributed_type: MULTI_GPU in its config), which works on CPUs too"
        )
