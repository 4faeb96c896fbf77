"""An objective that sees embeddings through a head: `clip: {head: {use: mlp}}` in a config."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import parallel, vocabulary
from mmclr.config import ConfigError
from mmclr.heads import HeadConfig
from mmclr.heads.ema_copy import Follower
from mmclr.heads.whitening import Whiten
from mmclr.losses.blank import samples_alone
from mmclr.losses.objective import Facts, Objective, no_value, tensors

_EMBEDDINGS = {name: row for name, row in vocabulary.FEATURES.items() if row.embedding and row.side != "none"}
SIDES = {name: row.side for name, row in _EMBEDDINGS.items() if row.gradient}
TEACHER = {name: row.side for name, row in _EMBEDDINGS.items() if row.provider == "ema"}  # the same of the teacher


class Headed(nn.Module):
    """Any objective with a head of its own in front of it, which maps what the model says of images and captions.

    What the teacher says of them passes the teacher's own head, whose weights follow this one's as the teacher's follow
    the model's. Below the head lies the model's embedding, which is what the model gives in use, unless the head is
    asked for (`mmclr eval --head`, `mmclr export --head`).
    """

    def __init__(self, objective: Objective, how: HeadConfig, where: str = "head") -> None:
        """Refuse a head that the objective has no use for; `where` is its path in the config."""
        super().__init__()
        self.objective, self.how = objective, how
        self._last = (True, False)
        self.needs, self.cost, self.key = objective.needs, objective.cost, objective.key
        if not SIDES.keys() & set(self.needs):
            raise ConfigError(f"{where}: a head maps embeddings, and {self.key} compares none; leave the head out")
        if isinstance(how, Whiten) and TEACHER.keys() & set(self.needs):
            raise ConfigError(
                f"{where}: whiten works with the statistics of what it maps in training, so it cannot map what "
                f"{self.key} asks of the teacher; take another head"
            )

    def setup(self, facts: Facts) -> None:
        """Create the head, and the state of the objective, which sees features of the head's width."""
        self.head = self.how.make(facts.width)
        used = [self.head.of(SIDES[name]) for name in self.needs if name in SIDES]
        trained = {id(p) for part in used if part is not None for p in part.parameters()}
        for p in self.head.parameters():
            p.requires_grad_(id(p) in trained)  # no process waits for the gradient of a side that nobody asks for
        if TEACHER.keys() & set(self.needs):
            self.teacher = Follower(self.head)
        self.objective.setup(dataclasses.replace(facts, width=self.head.width))

    def forward(self, **features: Any) -> Tensor:
        """Return the objective's value; the head computes in float32 or float64, like the objective."""
        with samples_alone(tensors(features)) as kept:
            self._last = kept.equally, kept.nothing
            if kept.nothing:
                return no_value(self, kept)
            weights = kept.features.get("weights")
            with torch.autocast(next(iter(kept.features.values())).device.type, enabled=False):
                seen = {name: self._mapped(name, x, weights) for name, x in kept.features.items()}
            return self.objective(**seen)

    def _mapped(self, name: str, x: Tensor, weights: Tensor | None) -> Tensor:
        if name in SIDES:
            found: Tensor = self.head(x, SIDES[name], weights)
            return found
        return self.teacher(x, TEACHER[name], weights) if name in TEACHER else x

    def after_step(self) -> None:
        """Let the head and the objective update their state."""
        equally, nothing = self._last
        if not nothing:
            with parallel.equally_many(equally):
                self.head.after_step()
            self.objective.after_step()
