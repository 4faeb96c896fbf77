"""A running average of the model's weights, used for evaluation and export."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Lt

from mmclr.config import config

if TYPE_CHECKING:
    from mmclr.train.strategies import Plain  # a config must not wait for what it imports


@config
class AverageConfig:
    """Exponential moving average of the weights; decay 0 switches it off."""

    decay: Annotated[float, Ge(0), Lt(1)] = 0.0  # 0.999 remembers about the last 1000 steps


class Average:
    """average <- d * average + (1 - d) * weights after each step, with d rising to `decay` from a fast start.

    Each rank keeps the average of its part of the weights.
    """

    def __init__(self, strategy: Plain, names: Iterable[str], decay: float) -> None:
        shards = strategy.shards()
        self.strategy, self.decay = strategy, decay
        self.parts = {name: shards[name].clone() for name in names}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        shards = self.strategy.shards()
        torch._foreach_lerp_(list(self.parts.values()), [shards[name] for name in self.parts], 1 - decay)
