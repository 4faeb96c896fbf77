"""Really several processes: warm gloo pools for the tests of data parallelism.

`run(4, function, *args)` calls a module's function on each of 4 ranks and returns their results, rank 0 first.
A pool starts once per session and world size; the workers use one thread each.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 120  # after which a rank counts as hung


def run(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `function(*args)` on `world` ranks at once; raise with the rank's traceback if one fails or hangs."""
    pool = _pool(world)
    try:
        return pool.call(function, args)
    except BaseException:
        _pool.cache_clear()  # the other ranks may wait in a collective for ever
        pool.close()
        raise


@functools.cache
def _pool(world: int) -> _Pool:
    return _Pool(world)


class _Pool:
    def __init__(self, world: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        meeting = Path(self.folder.name) / "store"
        self.pipes, self.processes = [], []
        for rank in range(world):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(there, rank, world, str(meeting)), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        atexit.register(self.close)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        work = pickle.dumps((sys.path, pickle.dumps((function, args))))
        for pipe in self.pipes:
            pipe.send_bytes(work)
        results = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(SECONDS):
                raise TimeoutError(f"rank {rank} of {len(self.pipes)} gave no answer in {SECONDS} s")
            error, result = pickle.loads(pipe.recv_bytes())
            if error:
                raise AssertionError(f"rank {rank} of {len(self.pipes)} failed:\n{error}")
            results.append(result)
        return results

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.terminate()
            process.join()
        self.folder.cleanup()
        atexit.unregister(self.close)


def _serve(pipe: Any, rank: int, world: int, meeting: str) -> None:
    """A worker's whole life: join the group, then do what comes through the pipe until it closes."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    while True:
        try:
            path, work = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps(_answer(path, work)))


def _answer(path: list[str], work: bytes) -> tuple[str, Any]:
    sys.path[:] = path  # the function's module is found where the caller found it
    try:
        function, args = pickle.loads(work)
        return "", function(*args)
    except BaseException:
        return traceback.format_exc(), None
