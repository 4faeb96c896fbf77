"""Strategies by which processes share a step: copies of everything (DDP), FSDP2 or DeepSpeed's ZeRO; one interface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from mmclr.train.strategies.loss_scale import LossScale
from mmclr.train.strategies.plain import Plain

__all__ = ["Plain", "choose"]


def choose(
    accelerator: Accelerator,
    step: nn.Module,
    build: Callable[[nn.Module], torch.optim.Optimizer],
    clip_norm: float | None,
    scale: LossScale | None = None,
) -> Plain:
    """Wrap `step` as the config of `accelerate launch` says; `build` makes the optimizer of its parameters."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from mmclr.train.strategies.zero import Zero

        return Zero(accelerator, step, build, clip_norm, scale)
    if accelerator.distributed_type == DistributedType.FSDP:
        from mmclr.train.strategies.fsdp import Fsdp

        return Fsdp(accelerator, step, build, clip_norm, scale)
    return Plain(accelerator, step, build, clip_norm, scale)
