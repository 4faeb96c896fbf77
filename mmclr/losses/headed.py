"""An objective that sees embeddings through a head: `clip: {head: {use: mlp}}` in a config."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from mmclr.heads import HeadConfig
from mmclr.losses.objective import Facts, Objective

SIDES = {"image": "image", "views": "image", "text": "text", "texts": "text", "text_views": "text"}


class Headed(nn.Module):
    """Any objective with a head of its own in front of it, which maps what the model says of pictures and captions.

    For the trainer it is an objective like others. Below the head lies the model's embedding, which is what the model
    gives in use, unless the head is asked for (`mmclr eval --head`, `mmclr export --head`).
    """

    def __init__(self, objective: Objective, how: HeadConfig) -> None:
        super().__init__()
        self.objective, self.how = objective, how
        self.needs, self.cost, self.key = objective.needs, objective.cost, objective.key

    def setup(self, facts: Facts) -> None:
        """Create the head, and the state of the objective, which sees features of the head's width."""
        self.head = self.how.make(facts.width)
        used = [self.head.of(SIDES[name]) for name in self.needs if name in SIDES]
        trained = {id(p) for part in used if part is not None for p in part.parameters()}
        for p in self.head.parameters():
            p.requires_grad_(id(p) in trained)  # no process waits for the gradient of a side that nobody asks for
        self.objective.setup(dataclasses.replace(facts, width=self.head.width))

    def forward(self, **features: Tensor) -> Tensor:
        """Return the objective's value; the head computes in float32 or float64, like the objective."""
        device = next(iter(features.values())).device.type
        with torch.autocast(device, enabled=False):
            seen = {
                name: self.head(_widen(x), SIDES[name], features.get("weights")) if name in SIDES else x
                for name, x in features.items()
            }
        return self.objective(**seen)

    def after_step(self) -> None:
        """Let the head and the objective update their state."""
        self.head.after_step()
        self.objective.after_step()


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
