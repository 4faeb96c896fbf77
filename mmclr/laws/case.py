"""An objective in a setting, and features made from its signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmclr import plugins, vocabulary
from mmclr.losses import Facts, Objective, catalogue
from mmclr.losses.weighted_sum import build_terms
from mmclr.random_features import Sizes


@dataclass(frozen=True)
class Case:
    """An objective by its key, the fields that are not at their default, and the plugins that it comes from."""

    key: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.key + "".join(f",{name}={value}" for name, value in self.fields.items())

    @property
    def cls(self) -> type[Objective]:
        """The objective's class."""
        plugins.load(self.plugins)  # in a process that was started, it is not there yet
        return catalogue()[self.key]

    @property
    def needs(self) -> tuple[str, ...]:
        """The features that it asks for; the term's options may ask for others than the class."""
        plugins.load(self.plugins)
        return build_terms({"term": {"use": self.key, **self.fields}})["term"].objective.needs

    def make(self, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
        """Return the objective, ready for steps of a small run; its own weights are of the features' `dtype`."""
        plugins.load(self.plugins)
        torch.manual_seed(0)  # of parameters that setup creates
        objective = build_terms({"term": {"use": self.key, **self.fields, **more}})["term"].objective
        objective.setup(Facts.example(samples=64, width=8, steps=10, batch=8, clusters=9, tower=Sizes().H))
        return objective.to(dtype)

    def features(self, b: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Return a random value of everything that the objective asks for; floats want gradients."""
        return features(self.needs, b, seed, dtype, self.cls.needs_teacher)


def features(needs: tuple[str, ...], b: int, seed: int, dtype: torch.dtype, as_wide: bool = False) -> dict[str, Tensor]:
    """Return a random value of each feature, of `b` samples; the student's want gradients.

    `as_wide`: the frozen model's have as many numbers as the student's.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = Sizes(b=b, dtype=dtype)
    sizes = replace(sizes, R=sizes.D) if as_wide else sizes
    made = {name: vocabulary.example(name, sizes, generator) for name in needs}
    return {name: x.requires_grad_() if wants_gradient(name) else x for name, x in made.items()}


def wants_gradient(name: str) -> bool:
    """Say whether a gradient flows into the feature."""
    return vocabulary.FEATURES[name].gradient


def per_sample(name: str) -> bool:
    """Say whether the rows of the feature are samples."""
    return vocabulary.FEATURES[name].per_sample


def gradients(value: Tensor, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of `value` for every feature that wants one."""
    wanted = {name: x for name, x in of.items() if x.requires_grad}
    if not value.requires_grad:
        return {name: torch.zeros_like(x) for name, x in wanted.items()}
    found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(wanted.items(), found)}


def with_own(objective: torch.nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the features together with the objective's own weights, as "own NAME"."""
    return {**inputs, **{f"own {name}": p for name, p in objective.named_parameters() if p.requires_grad}}
