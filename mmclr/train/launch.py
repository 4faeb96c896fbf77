"""Make `accelerate launch` start as many processes as it was asked for on a machine without accelerators too.

accelerate starts one process there and only hints at the others in its environment. And whoever starts several
processes may die first (kill -9): the others must not go on writing to the run's folder.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

import torch

from mmclr.errors import UserError


def start_missing_processes(argv: list[str]) -> int | None:
    """Start the processes that accelerate was asked for but did not start; return their exit status, else None."""
    if "WORLD_SIZE" in os.environ:
        die_with_parent()
    asked = _asked_for()
    if asked is None:
        return None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    die_with_parent()
    machines = ["--nnodes", str(asked.num_machines), "--node_rank", str(asked.machine_rank or 0)]
    address = ["--master_addr", os.environ["MASTER_ADDR"], "--master_port", os.environ["MASTER_PORT"]]
    each = ["--nproc_per_node", str(asked.num_processes // asked.num_machines)]
    try:
        main([*machines, *each, *address, "--module", "mmclr.train", *argv])
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


def _asked_for() -> argparse.Namespace | None:
    """Return the launcher's arguments if it was asked for several processes and started this one alone."""
    hinted = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if not hinted or "WORLD_SIZE" in os.environ or torch.cuda.is_available():
        return None
    import psutil  # accelerate depends on it
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = psutil.Process(os.getppid()).cmdline()
    if "launch" not in words:
        return None
    asked, _ = launch_command_parser().parse_known_args(words[words.index("launch") + 1 :])
    file = asked.config_file or (default_config_file if os.path.isfile(default_config_file) else None)
    if file is not None:
        config = load_config_from_file(file)
        for name in ("num_processes", "num_machines", "machine_rank"):
            setattr(asked, name, getattr(asked, name) or getattr(config, name, None))
    asked.num_machines = asked.num_machines or 1
    return asked if (asked.num_processes or 1) > 1 else None
