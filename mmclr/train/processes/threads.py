"""The number of threads that compute a run's steps on a CPU: found by trying the run's own step, not by counting cores.

Small models are faster on one thread even on a quiet machine, and who else is busy there (the loader's workers too)
nobody can know beforehand. Sums over several threads are rounded otherwise, so the number is part of the run: each
checkpoint names it, and a run that goes on takes it again. A config's `threads: N`, or OMP_NUM_THREADS, decide it.
"""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from mmclr import parallel
from mmclr.data.stream.batch import Batch
from mmclr.runtime.spinning import threads_spin
from mmclr.train import optimizer
from mmclr.train.parts import Parts
from mmclr.train.strategies import Plain

ROUNDS = 10  # turns of each number
SHORT = 0.5  # seconds; a turn is several steps where they are shorter, since the first after a change is slow
WARM = 6  # steps before any is measured, at most
SECONDS = 10.0  # after which no further round begins
SLOWER = 2.5  # a number this many times as slow as another is not tried again, nor are smaller ones


@contextlib.contextmanager
def settled(t: Parts) -> Iterator[None]:
    """Compute on the run's number of threads while the context lasts; `t.threads` is that number."""
    before = torch.get_num_threads()
    t.threads = choose(t)
    torch.set_num_threads(t.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose(t: Parts) -> int:
    """Return the number of threads for a run's steps; what there is to say about it goes to the saver's notes."""
    now, before, say = torch.get_num_threads(), t.threads, t.saver.notes.append
    if t.run.threads != "auto":
        chosen = int(t.run.threads)
    elif "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ:  # set by the user, or by a launcher
        chosen = now
    elif before and before <= cores():
        chosen = before
    elif parallel.world() > 1 or type(t.strategy) is not Plain or torch.cuda.is_available():
        chosen = max(1, min(now, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    else:
        tried = try_out(t, candidates(min(now, limit(t.run.data.workers))))
        chosen = fastest(tried)
        told = ", ".join(f"{seconds:.3g} s on {n}" for n, seconds in sorted(tried.items()))
        say(f"threads: {chosen} of {cores()} cores" + (f" (a step takes {told})" if len(tried) > 1 else ""))
        if threads_spin():
            say("threads spin here: torch was imported before mmclr.train, or OMP_WAIT_POLICY says so; fewer are used")
    if before and chosen != before:
        say(f"threads: {chosen}, and {before} until the checkpoint: the last bits may differ from an unbroken run")
    return chosen


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit(workers: int) -> int:
    """Return the most threads that may be tried: where they spin, a core is left to others and one to each worker."""
    return max(1, cores() - 1 - max(workers, 1)) if threads_spin() else cores()


def candidates(most: int) -> list[int]:
    """Return the numbers to be tried: the most, half of it, and so on to one."""
    found = [most]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def fastest(tried: dict[int, float]) -> int:
    """Return the number of the shortest step; `tried` are seconds of a step by number, of equal ones the smaller."""
    return min(sorted(tried), key=lambda number: tried[number])


def try_out(t: Parts, numbers: Sequence[int]) -> dict[int, float]:
    """Return how long a step takes on each of these numbers of threads, in seconds, while the loader is at work.

    All is done on a copy: weights, state, randomness and the place in the data stay as they are.
    """
    if len(numbers) == 1:
        return {numbers[0]: 0.0}
    size = t.run.micro_batch or t.run.data.batch
    with torch.random.fork_rng([]), contextlib.closing(t.loader.ahead()) as batches:  # type: ignore[type-var]
        try:
            step = _copy(t)
            for _ in range(WARM):  # the first steps take memory and load libraries
                if step(next(batches).split(size)[0]) > SHORT:
                    break
            return timed(lambda: step(next(batches).split(size)[0]), numbers)
        except (TypeError, RuntimeError, NotImplementedError) as error:  # a part that cannot be copied, or no memory
            t.saver.notes.append(f"threads: the step could not be tried ({str(error).splitlines()[0][:200]})")
            return {numbers[0]: 0.0}


def timed(step: Callable[[], float], numbers: Sequence[int]) -> dict[int, float]:
    """Return the seconds that `step` says it took, by number of threads: the mean of the faster half, for what else the
    machine does makes single steps slower. The numbers take turns."""
    before, began = torch.get_num_threads(), time.monotonic()
    seen: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        for turn in range(ROUNDS):
            if turn and time.monotonic() - began > SECONDS:
                break
            for number in _worth_trying(seen):
                torch.set_num_threads(number)
                first = step()
                seen[number] += [step() for _ in range(3)] if first < SHORT else [first]
    finally:
        torch.set_num_threads(before)
    return {number: _typical(seconds) for number, seconds in seen.items() if seconds}


def _typical(seconds: list[float]) -> float:
    return statistics.fmean(sorted(seconds)[: (len(seconds) + 1) // 2])


def _worth_trying(seen: dict[int, list[float]]) -> Iterator[int]:
    """Yield numbers, largest first: in the first turn until one is far slower, later those that are not."""
    first = not any(seen.values())
    for number in sorted(seen, reverse=True):
        if not first and not seen[number]:
            return
        middle = {n: _typical(seconds) for n, seconds in seen.items() if seconds}
        if first or middle[number] <= SLOWER * min(middle.values()):
            yield number
        if first and seen[number][0] > SLOWER * min(seconds[0] for seconds in seen.values() if seconds):
            return


def _copy(t: Parts) -> Callable[[Batch], float]:
    """Return a function that takes a step on a copy of the model, and returns how long that took."""
    fixed = {id(p): p for p in t.step.parameters() if not p.requires_grad}  # shared: nothing changes them
    step = copy.deepcopy(t.step, fixed)
    update = optimizer.build(t.run.optim, step)
    optimizer.set_rate(update, 0.0)
    step.train()

    def take(batch: Batch) -> float:
        began = time.monotonic()
        loss, _ = step(batch, t.taken / t.steps)
        loss.backward()
        update.step()
        update.zero_grad()
        return time.monotonic() - began

    return take
