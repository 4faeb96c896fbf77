"""One set shared by several processes: each embeds its part, all know all of it, one speaks.

accelerate launch --num_processes 8 -m mmclr.cli eval zero_shot MODEL --data ...
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor

from mmclr import parallel


def join() -> None:
    """Join the other processes, where a launcher (accelerate, torchrun) has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def wait() -> None:
    """Wait until all processes are here."""
    if parallel.world() > 1:
        dist.barrier()


def leave() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def part(n: int) -> range:
    """Return which of n things are this process's: a slice of its own."""
    each = -(-n // parallel.world())
    return range(min(parallel.rank() * each, n), min((parallel.rank() + 1) * each, n))


def join_parts(rows: Tensor, n: int) -> Tensor:
    """Put the parts of all processes together, in order: [len(part(n)), ...] -> [n, ...]."""
    if parallel.world() == 1:
        return rows
    each = -(-n // parallel.world())
    padded = rows.new_zeros(each, *rows.shape[1:])
    padded[: len(rows)] = rows
    return parallel.gather(padded)[:n]


def speaks() -> bool:
    """Whether this process prints and writes."""
    return parallel.rank() == 0
