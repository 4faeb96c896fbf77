"""The teacher: a copy of the model in training that follows it, a provider of features without gradient."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, cast

import torch
from torch import Tensor

from mmclr import vocabulary
from mmclr.features import towers
from mmclr.features.provider import Provider
from mmclr.features.student import Student
from mmclr.heads.ema_copy import Follower
from mmclr.models.two_tower import TwoTower

PREFIX = "ema_"


class Ema(Provider, key="ema", made_by="ema"):
    """Computes ema_image, ema_text, ema_views, ema_text_views and ema_view_tokens, without patches left out.

    Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017, arXiv 1703.01780. It holds only those
    towers that somebody asks about.
    """

    def __init__(self, student: Student, wanted: Set[str]) -> None:
        """Copy the towers of `student`; `wanted` are the features that objectives ask for."""
        names = _own(wanted)
        self.provides = {row for row in vocabulary.names(provider=self.key) if _own({row}) <= student.provides}
        self.teacher = Follower(
            student.model.encoders(image=bool(names & towers.IMAGES), text=bool(names & towers.TEXTS))
        )

    @torch.no_grad()
    def forward(
        self, batch: Any, wanted: Set[str], found: Mapping[str, Tensor], progress: float
    ) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names, which are among those that it provides."""
        names, model = _own(wanted), cast(TwoTower, self.teacher.copy)
        out = towers.see(model, batch, names) if names & towers.IMAGES else {}
        if names & towers.TEXTS:
            out |= towers.read(model, batch, names)
        return {PREFIX + name: value for name, value in out.items()}


def asked(wanted: Set[str]) -> bool:
    """Whether a feature of the teacher is among the wanted ones."""
    return bool(_own(wanted))


def _own(wanted: Set[str]) -> set[str]:
    return {name.removeprefix(PREFIX) for name in wanted if name.startswith(PREFIX)}
