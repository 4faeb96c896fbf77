"""The providers as their laws see them: each in a step of a tiny model, with objectives that ask for what it gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmclr import parallel, vocabulary
from mmclr.config import check
from mmclr.features import provider
from mmclr.features.ema import Ema
from mmclr.features.frozen import Frozen
from mmclr.features.provider import Provider, build_providers, catalogue
from mmclr.features.student import Student
from mmclr.losses.objective import Facts
from mmclr.losses.ramp import Ramp
from mmclr.losses.weighted_sum import Term
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.step import Step
from tests.exports import tokenizer
from tests.train.test_accumulate import SETS, TREE

# Settings beyond the defaults that take another path through a provider's code, by key.
SETTINGS: dict[str, list[dict[str, Any]]] = {"test_pool": [{"sharpness": 3.0}]}
ROW = vocabulary.Feature(
    "[b, V, D]",
    "test_pool",
    "unit-norm mean of each view's patches, weighted by a learnt query",
    vocabulary.FEATURES["views"].make,
    side="image",
    gradient=True,
)


def define() -> type[Provider]:
    """Define a provider as a plugin would: it learns, asks for dense features, and keeps state."""
    vocabulary.add("pooled_views", ROW)

    class Pool(Provider, key="test_pool"):
        """Attention over the patches of each view."""

        provides = frozenset({"pooled_views"})
        asks = frozenset({"view_tokens", "progress"})
        sharpness: float = 1.0

        def setup(self, model: TwoTower, facts: Facts) -> None:
            self.query = nn.Parameter(torch.randn(facts.width))
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, batch, wanted, found, progress):
            tokens = found["view_tokens"]
            sharpness = self.sharpness * (1 + self.steps / 10) * (1 + found["progress"])
            share = (tokens @ self.query * sharpness).softmax(-1)
            return {"pooled_views": nn.functional.normalize((share[..., None] * tokens).sum(-2), dim=-1)}

        def after_step(self) -> None:
            self.steps += 1

    return Pool


def forget(key: str = "test_pool") -> None:
    """Take back what `define` did."""
    provider._REGISTRY.pop(key, None)
    vocabulary._ROWS.pop("pooled_views", None)


class Asking(nn.Module):
    """An objective whose value is the mean over samples of some number of one feature's rows."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.needs = self.taught = (name, "shares")

    def setup(self, facts: Facts) -> None: ...

    def after_step(self) -> None: ...

    def forward(self, shares: Tensor, **features: Tensor) -> Tensor:
        x = features[self.name].double()
        if not vocabulary.FEATURES[self.name].per_sample:
            return parallel.total(x.square().mean() * shares.sum())
        x = x.flatten(1)
        return parallel.total((shares * (x * torch.linspace(-1, 2, x.shape[1])).sin().sum(1)).sum())


def keys() -> list[str]:
    """Return the keys of all providers: those that every model has, and those of a config's `providers`."""
    return [*catalogue(), "test_pool"]


def make_step(key: str, fields: dict[str, Any], folder: Any, seed: int = 0) -> Step:
    """Return a step of a tiny model in float64 in which objectives ask for all that the provider gives."""
    torch.manual_seed(seed)
    model = TwoTower(with_tokenizer(check(ModelConfig, TREE), 90, 1, 2, 2), bias=True).double()
    student = Student(model, patch_dropout=0.4, sets=SETS, text_views=2, text_sources=2)
    made: dict[str, Provider] = {"student": student}
    if key == "frozen":
        words = tokenizer()
        model.save(folder)
        words.save(folder)
        made = {"frozen": Frozen(str(folder), words, model.config.image, SETS), "student": student}
    elif key == "ema":
        made["ema"] = Ema(student, vocabulary.names(provider="ema"))
    elif key != "student":
        made |= build_providers({key: {"use": key, **fields}})
    names = made[key].provides | {"image"}  # a loss with a gradient, whatever the provider gives
    step = Step(made, {name: Term(Asking(name), Ramp(first=1.0, last=1.0)) for name in sorted(names)})
    step.setup(model, Facts.example(samples=200, width=12, steps=10, batch=10, clusters=9))
    step.freeze_unasked()
    return step.double().train()
