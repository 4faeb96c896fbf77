"""Teachers move after each update, towards the weights that they follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mmclr.heads import ema_copy
from mmclr.losses.ramp import Ramp

if TYPE_CHECKING:
    from mmclr.train.strategies import Plain


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
