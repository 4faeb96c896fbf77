"""The contract of a reweighter: argument names of forward say what it needs, its value is a factor per sample.

::

    class Confident(Reweighter, key="confident"):
        power: float = 1.0  # of the cosine, >= 0

        def forward(self, frozen_image, frozen_text):
            return (frozen_image * frozen_text).sum(1).clamp_min(0) ** self.power

Features are this rank's rows, blank ones left out, without gradient. What compares samples goes through `parallel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from mmclr import parallel, plugins, vocabulary
from mmclr.config import config

REWEIGHTERS: dict[str, type[Reweighter]] = {}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Reweighter:
    """A rule for what samples count. A subclass is a config with a function, registered by its key; it keeps no state.

    forward returns numbers [b], at least 0. Only their ratios matter: `factors` brings their mean to 1.
    """

    key: ClassVar[str]
    example: ClassVar[Mapping[str, Any]] = {}  # values of fields without a default, for pages and laws
    forward: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, key: str) -> None:
        super().__init_subclass__()
        cls.key = key
        if "needs" not in vars(cls):
            dense = vocabulary.dense(vocabulary.asked(cls.forward, f"{cls.__name__}.forward"))
            if dense:
                raise TypeError(
                    f"{cls.__name__}.forward asks for {dense[0]}, which has a row per token and exists for one "
                    f"micro-batch at a time; let a provider make a feature per sample of it"
                )
        plugins.register("reweighter", REWEIGHTERS, key, config(cls))

    @property
    def needs(self) -> tuple[str, ...]:
        """The features that forward takes, by default the names of its arguments."""
        return vocabulary.asked(type(self).forward, type(self).__name__)


@torch.no_grad()
def factors(reweighters: Sequence[Reweighter], features: Mapping[str, Tensor]) -> Tensor:
    """Return the product [b] of what reweighters say, brought to mean 1 over the samples of all ranks.

    Where all samples get 0 they keep it: the batch counts nothing.
    """
    product: Any = 1
    for one in reweighters:
        product = product * one.forward(**{name: features[name].detach() for name in one.needs})
    mean = parallel.total(product.sum()) / max(1, parallel.count(product))
    return torch.where(mean > 0, product / mean, product)
