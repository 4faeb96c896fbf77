"""Joining the other processes of a run, on whatever machine and by whatever config of `accelerate launch`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from mmclr import parallel
from mmclr.errors import UserError

LOST = ("gloo", "nccl", "pair closure", "connection closed by peer", "connection reset by peer")  # in what torch says


@contextlib.contextmanager
def joined(timeout: float, **settings: Any) -> Iterator[Accelerator]:
    """Join, and leave when the context ends; that another process is gone becomes one sentence."""
    accelerator, lost = join(timeout, **settings), False
    try:
        yield accelerator
    except RuntimeError as error:
        what = str(error).lower()
        lost = parallel.world() > 1 and (isinstance(error, dist.DistError) or any(word in what for word in LOST))
        if not lost:
            raise
        raise UserError(
            f"another process of this run has stopped, or was not heard of for {timeout:g} minutes (timeout); its own "
            "message says why. The same command (with resume=auto) goes on from the newest checkpoint"
        ) from error
    finally:
        if not lost:  # saying goodbye would wait for the others
            with contextlib.suppress(OSError):  # of a tracker whose disk is full
                accelerator.end_training()


def join(timeout: float, **settings: Any) -> Accelerator:
    """Return the Accelerator; a process that hears nothing from the others for `timeout` minutes gives up.

    Precision is no concern of it: the step casts for itself, the same under every strategy.
    """
    wait = timedelta(minutes=timeout)
    parallel.wait_at_most(wait)
    together = "LOCAL_RANK" in os.environ
    if together and not torch.cuda.is_available():
        _stay_on_cpu(wait)
    # Per-sample state differs between ranks on purpose, so DDP must not copy rank 0's buffers to the others.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    group = [InitProcessGroupKwargs(timeout=wait)] if together else []
    return Accelerator(mixed_precision="no", kwargs_handlers=[ddp, *group], **settings)


def _stay_on_cpu(wait: timedelta) -> None:
    """Join over gloo: accelerate has neither a backend nor FSDP for a launch that finds no GPU and names no CPU."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    shards = any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    state = PartialState(cpu=not shards, backend="gloo", timeout=wait)
    if state.distributed_type == DistributedType.NO:
        state.distributed_type = DistributedType.MULTI_GPU  # read as: several of one kind; it has no setting for that
