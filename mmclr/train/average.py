"""A running average of the model's weights, used for evaluation and export."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import nn

from mmclr.config import config


@config
class AverageConfig:
    """Exponential moving average of the weights; decay 0 switches it off."""

    decay: Annotated[float, Ge(0), Lt(1)] = 0.0  # 0.999 remembers about the last 1000 steps


class Average:
    """average <- d * average + (1 - d) * weights after each step, with d rising to `decay` from a fast start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(own, new, 1 - decay)
