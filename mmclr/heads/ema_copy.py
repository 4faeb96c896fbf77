"""A copy of a module that follows it: teachers, momentum encoders, target networks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Follower(nn.Module):
    """A copy whose weights are the running average of a module's; no gradient, always in evaluation mode.

    Its weights are parameters that are not trained, so whatever shares out the followed ones among processes shares
    these out alike. The trainer moves them after each update, by the schedule `ema`; nothing here knows of it.
    """

    def __init__(self, followed: nn.Module) -> None:
        super().__init__()
        self.copy = copy.deepcopy(followed).requires_grad_(False)
        self.followed = [followed]  # in a list: it is no part of this module
        self.train(False)

    def train(self, mode: bool = True) -> Follower:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """Return what the copy makes of the inputs."""
        return self.copy(*inputs)

    def restart(self) -> None:
        """Be equal to what is followed, whose weights were not yet those of the run when it was copied."""
        self.copy.load_state_dict(self.followed[0].state_dict())


def pairs(module: nn.Module) -> dict[str, str]:
    """Return the names in `module` of all followers' weights and of what each of them follows."""
    names = {id(p): name for name, p in module.named_parameters()}
    found = {}
    for inner in module.modules():
        if isinstance(inner, Follower):
            for own, followed in zip(inner.copy.parameters(), inner.followed[0].parameters(), strict=True):
                found[names[id(own)]] = names[id(followed)]
    return found


def restart(module: nn.Module) -> None:
    """Let all followers in `module` be equal to what they follow."""
    for inner in module.modules():
        if isinstance(inner, Follower):
            inner.restart()
