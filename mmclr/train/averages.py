"""Running averages of weights: teachers that follow what learns, and the average that is evaluated and exported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Lt
from torch import nn

from mmclr.config import config
from mmclr.heads import ema_copy
from mmclr.losses.ramp import Ramp

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


class Following:
    """follower <- m * follower + (1 - m) * followed, for all followers in a step; m is a function of the progress.

    Each rank moves its part of the weights, as the strategy shares them out.
    """

    def __init__(self, step: nn.Module, momentum: Ramp) -> None:
        """Read the names of the bare step: a strategy may give its weights others."""
        self.pairs, self.momentum = ema_copy.pairs(step), momentum

    @torch.no_grad()
    def update(self, strategy: Plain, progress: float) -> None:
        """Move after the weights have changed."""
        if not self.pairs:
            return
        shards = strategy.shards()
        mine, theirs = ([shards[name] for name in names] for names in (self.pairs, self.pairs.values()))
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum(progress))
        strategy.weights_changed(self.pairs)
