"""Activation checkpointing: blocks keep their input alone for the backward, and compute the rest again."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmclr.errors import UserError
from mmclr.models.clip.blocks import Recomputable
from mmclr.models.tower import blocks_for, towers
from mmclr.models.two_tower import TwoTower


def recompute(model: TwoTower) -> None:
    """Let every block of both towers, and of the captioner, do so in training. Values and gradients stay the same."""
    for tower in towers(model):
        for block in blocks_for("activation_checkpointing", tower):
            if any(isinstance(inner, _BatchNorm) and inner not in model.locked for inner in block.modules()):
                raise UserError(
                    f"activation_checkpointing: {tower.called} has batch norms, whose statistics would move twice; set "
                    "it to false, or lock that tower"
                )
            if isinstance(block, Recomputable):
                block.recompute = True
            else:
                _again(block)


def _again(block: nn.Module) -> None:
    """Make another library's block compute again. It may be random: what it drew it draws again."""
    compute = block.forward

    @functools.wraps(compute)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if block.training and torch.is_grad_enabled():
            return checkpoint(compute, *args, use_reentrant=False, **kwargs)
        return compute(*args, **kwargs)

    block.forward = forward
