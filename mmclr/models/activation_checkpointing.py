"""Activation checkpointing: blocks keep their input alone for the backward, and compute the rest again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from mmclr.errors import UserError
from mmclr.models.clip.blocks import Recomputable
from mmclr.models.two_tower import TwoTower


def recompute(model: TwoTower) -> None:
    """Let every block of both towers, and of the captioner, do so in training. Values and gradients stay the same."""
    for block in own_blocks(model):
        block.recompute = True
    for part, c in (("image", model.config.image), ("text", model.config.text)):
        if c.foreign is not None:
            _switch_on(getattr(model, {"image": "vision_model", "text": "text_model"}[part]).model, part)


def own_blocks(model: nn.Module) -> Iterator[Recomputable]:
    """Return our own blocks, outermost ones: a captioner's has one of the text tower's kind inside."""
    for child in model.children():
        if isinstance(child, Recomputable):
            yield child
        else:
            yield from own_blocks(child)


def _switch_on(tower: Any, part: str) -> None:
    """Ask another library's tower for it, in that library's words."""
    try:
        if hasattr(tower, "activation_checkpointing_enable"):
            tower.activation_checkpointing_enable({"use_reentrant": False})
        elif hasattr(tower, "gradient_checkpointing_enable"):  # older transformers
            tower.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            tower.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, ValueError) as error:
        raise UserError(
            f"activation_checkpointing: the {part} tower ({type(tower).__name__}) cannot do it ({error}); set it to "
            "false, or micro_batch, which saves memory with every tower"
        ) from None
