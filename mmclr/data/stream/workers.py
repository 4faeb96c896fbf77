"""Work done ahead, in order: in one thread of this process, or in worker processes that may die and are replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from mmclr.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
AHEAD = 2  # results of each worker that wait to be taken
DEATHS = 3  # of workers in a row, without a result between them, that end the run

_make: Callable[[Any], Any]  # what this worker process does


def run_ahead(
    make: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    patience: float | None = None,
    on_restart: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yield make(job) for each job, in order, while the next ones are being made.

    A worker that dies, or that is silent for `patience` seconds, is replaced together with its fellows and the jobs
    are done again: `make` must give the same each time. Raises UserError when that happens again and again.
    """
    todo = iter(jobs)
    pool = _start(make, workers)
    queue: deque[tuple[Job, Future[Result]]] = deque()
    deaths = 0
    try:
        while True:
            for job in todo:
                queue.append((job, _submit(pool, make, job, workers)))
                if len(queue) >= AHEAD * max(workers, 1):
                    break
            if not queue:
                return
            try:
                result = queue[0][1].result(patience if workers else None)
            except (BrokenProcessPool, TimeoutError) as error:
                deaths += 1
                on_restart()
                if deaths >= DEATHS:
                    raise UserError(_lasting(error, workers)) from error
                _stop(pool)
                pool = _start(make, workers)
                queue = deque((job, _submit(pool, make, job, workers)) for job, _ in queue)
                continue
            deaths = 0
            queue.popleft()
            yield result
    finally:
        _stop(pool)


def _start(make: Callable[[Any], Any], workers: int) -> Executor:
    if not workers:
        return ThreadPoolExecutor(1, "mmclr-data")
    method = "fork" if sys.platform == "linux" else "spawn"  # a fork shares the index instead of copying it
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(make,))


def _submit(pool: Executor, make: Callable[[Job], Result], job: Job, workers: int) -> Future[Result]:
    if not workers:
        return pool.submit(make, job)
    try:
        with (
            warnings.catch_warnings()
        ):  # Python 3.12 warns of every fork beside threads; a worker takes no lock of theirs
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            return pool.submit(_work, job)
    except BrokenProcessPool as error:  # it broke since the last result: the first one waited for will tell
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed


def _begin(make: Callable[[Any], Any]) -> None:
    """Make this process a worker: one thread, deaf to Ctrl-C, gone when its parent is."""
    global _make
    _make = make
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Any) -> Any:
    return _make(job)


def _stop(pool: Executor) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()  # nothing lives in a worker


def _lasting(error: Exception, workers: int) -> str:
    what = "does not answer within data.patience" if isinstance(error, TimeoutError) else "died"
    return (
        f"a data worker {what}, {DEATHS} times in a row at the same place (of {workers} workers). "
        "Memory is the usual reason, in containers that of /dev/shm (docker run --shm-size): lower data.workers or "
        "data.batch, or set data.workers=0 to see the error itself"
    )
