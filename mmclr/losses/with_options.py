"""An objective with the options of its term: `clip: {inputs: {text: views.0}, head: {use: mlp}, reweight: {...}}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import parallel, vocabulary
from mmclr.config import ConfigError
from mmclr.heads import HeadConfig
from mmclr.heads.ema_copy import Follower
from mmclr.heads.whitening import Whiten
from mmclr.losses.blank import samples_alone
from mmclr.losses.inputs import Input, parse
from mmclr.losses.objective import Facts, Objective, no_value, tensors
from mmclr.reweighters import Reweighter, factors

_EMBEDDINGS = {name: row for name, row in vocabulary.FEATURES.items() if row.embedding and row.side != "none"}
SIDES = {name: row.side for name, row in _EMBEDDINGS.items() if row.gradient}
TEACHER = {name: row.side for name, row in _EMBEDDINGS.items() if row.provider == "ema"}  # the same of the teacher


class WithOptions(nn.Module):
    """Any objective, given other features (inputs), seen through a head, with other weights of samples (reweight).

    In this order: the head maps what the inputs say, by the side that it tells of, and reweighters see features as
    providers gave them. What an objective takes as constant (a teacher's features, say) stays without gradient whatever
    is given for it.

    The head is the term's own and maps what the model says of images and captions. What the teacher says of them passes
    the teacher's own head, whose weights follow this one's as the teacher's follow the model's. Below the head lies the
    model's embedding, which is what the model gives in use, unless the head is asked for (`mmclr eval --head`,
    `mmclr export --head`).
    """

    def __init__(
        self,
        objective: Objective,
        head: HeadConfig | None = None,
        inputs: Mapping[str, str] | None = None,
        reweight: Sequence[Reweighter] = (),
        where: str = "objectives",
    ) -> None:
        """Refuse options that the objective has no use for; `where` is the term's path in the config."""
        super().__init__()
        self.objective, self.how, self.reweight, self.where = objective, head, tuple(reweight), where
        self._last = (True, False)
        self.inputs: dict[str, Input] = parse(objective.needs, inputs or {}, f"{where}.inputs")
        self.features = list(dict.fromkeys(given.feature for given in self.inputs.values()))  # that the objective sees
        asked = (name for one in self.reweight for name in one.needs)
        self.needs = tuple(dict.fromkeys([*self.features, *asked]))
        self.taught = tuple(given.feature for need, given in self.inputs.items() if vocabulary.FEATURES[need].gradient)
        self.cost, self.key = objective.cost, objective.key
        self.full_batch, self.needs_teacher = objective.full_batch, objective.needs_teacher
        if head is not None:
            self._check_head(head, f"{where}.head")
        if self.reweight and "weights" not in objective.needs:
            raise ConfigError(
                f"{where}.reweight: {self.key} asks for no weights of samples that could be changed; leave it out"
            )

    def _check_head(self, head: HeadConfig, where: str) -> None:
        if not SIDES.keys() & set(self.features):
            raise ConfigError(f"{where}: a head maps embeddings, and {self.key} compares none; leave the head out")
        if isinstance(head, Whiten) and TEACHER.keys() & set(self.features):
            raise ConfigError(
                f"{where}: whiten works with the statistics of what it maps in training, so it cannot map what "
                f"{self.key} asks of the teacher; take another head"
            )

    def setup(self, facts: Facts) -> None:
        """Create the head, and the state of the objective, which sees features of the head's width."""
        if self.how is not None:
            self.head = self.how.make(facts.width)
            used = [self.head.of(SIDES[name]) for name in self.taught if name in SIDES]
            trained = {id(p) for part in used if part is not None for p in part.parameters()}
            for p in self.head.parameters():
                p.requires_grad_(id(p) in trained)  # no process waits for the gradient of a side that nobody asks for
            if TEACHER.keys() & set(self.features):
                self.teacher = Follower(self.head)
            facts = dataclasses.replace(facts, width=self.head.width)
        self.objective.setup(facts)

    def forward(self, **features: Any) -> Tensor:
        """Return the objective's value; head and reweighters compute in float32 or float64, like the objective."""
        with samples_alone(tensors(features)) as kept:
            self._last = kept.equally, kept.nothing
            if kept.nothing:
                return no_value(self, kept)
            with torch.autocast(next(iter(kept.features.values())).device.type, enabled=False):
                seen = {need: self._seen(need, kept.features) for need in self.inputs}
                if self.reweight:
                    seen["weights"] = seen["weights"] * factors(self.reweight, kept.features).to(seen["weights"])
            return self.objective(**seen)

    def _seen(self, need: str, features: Mapping[str, Tensor]) -> Tensor:
        """Return what the objective sees where it asks for `need`."""
        given = self.inputs[need]
        x = given.of(features, f"{self.where}.inputs.{need}")
        if self.how is not None and given.feature in SIDES:
            x = self.head(x, SIDES[given.feature], features.get("weights"))
        elif self.how is not None and given.feature in TEACHER:
            x = self.teacher(x, TEACHER[given.feature], features.get("weights"))
        return x if given.feature == need or vocabulary.FEATURES[need].gradient else x.detach()

    def after_step(self) -> None:
        """Let the head and the objective update their state."""
        equally, nothing = self._last
        if nothing:
            return
        if self.how is not None:
            with parallel.equally_many(equally):
                self.head.after_step()
        self.objective.after_step()
