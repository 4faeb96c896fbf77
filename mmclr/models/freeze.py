"""Towers, or their first blocks, that stay as they are.

Zhai et al., LiT: Zero-Shot Transfer with Locked-image Text Tuning, CVPR 2022, arXiv 2111.07991.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from torch import nn

from mmclr.config import ConfigError, config
from mmclr.models.layer_depth import depths
from mmclr.models.tower import Tower
from mmclr.models.two_tower import TwoTower

How = bool | Literal["all"] | Annotated[int, Ge(1)]


@config
class LockConfig:
    """The locked part of each tower: true: all but its projection; all: that too; n: embeddings and first n blocks."""

    image: How = False
    text: How = False


def lock(model: TwoTower, c: LockConfig) -> None:
    """Freeze parts of a model: their weights get no gradient, and they never leave evaluation mode."""
    _lock(model, c.image, model.vision_model, model.visual_projection, "image")
    _lock(model, c.text, model.text_model, model.text_projection, "text")


def _lock(model: TwoTower, how: bool | str | int, tower: Tower, projection: nn.Module, part: str) -> None:
    if how is False:
        return
    if how == "all":
        projection.requires_grad_(False)
    names = [name for name, _ in tower.named_parameters()]
    depth, last = depths(tower), len(tower.stages())
    if not isinstance(how, (bool, str)) and how > last:
        raise ConfigError(f"lock.{part}: {how} blocks, and {tower.called} has {last}; true locks all of it")
    frozen = {name for name in names if isinstance(how, (bool, str)) or depth[name] <= how}
    for name in frozen:
        tower.get_parameter(name).requires_grad_(False)
    model.locked += [module for name, module in tower.named_modules() if _within(name, module, frozen)]


def _within(name: str, module: nn.Module, frozen: set[str]) -> bool:
    """Whether a module has weights, all of them frozen."""
    own = [f"{name}.{key}" if name else key for key, _ in module.named_parameters()]
    return bool(own) and frozen.issuperset(own)
