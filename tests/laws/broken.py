"""Objectives that are wrong in one way each: what they are called is the law that they do not keep."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmclr import parallel
from mmclr.losses.objective import Facts, Objective, tensors


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return grad  # of x, not of its square


def distance(image: Tensor, text: Tensor) -> Tensor:
    return (image - text).square().sum(1)


class Docstring(Objective, key="docstring"):
    """Draw pairs together"""

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text), weights)


class FieldComments(Objective, key="field_comments"):
    factor: float = 1.0

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return self.factor * parallel.mean(distance(image, text), weights)


class Finite(Objective, key="finite"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean((image - image).norm(dim=1).sqrt() + distance(image, text), weights)


class TinyBatches(Objective, key="tiny_batches"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        every = parallel.gather(distance(image, text))
        return (
            parallel.mean(distance(image, text), weights) / ((every - every.mean()).square() / (len(every) - 1)).sum()
        )


class RepeatedSample(Objective, key="repeated_sample"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        every = parallel.gather(distance(image, text))
        return parallel.mean(distance(image, text), weights) / (every.max() - every.min())


class Derivative(Objective, key="derivative"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(_Wrong.apply(image - text).sum(1), weights)


class NamesUsed(Objective, key="names_used"):
    def forward(self, image: Tensor, text: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text), weights)


class Order(Objective, key="order"):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        every = parallel.gather(distance(image, text))
        return (every * torch.arange(len(every))).mean()


class Weights(Objective, key="weights"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.total((distance(image, text) * weights).sum())


class MissingIds(Objective, key="missing_ids"):
    def forward(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        labels = parallel.gather(label)
        return parallel.mean(distance(image, text) / (label[:, None] == labels).sum(1))


class MicroBatches(Objective, key="micro_batches", cost="local"):
    def forward(self, view_tokens: Tensor, shares: Tensor) -> Tensor:
        return parallel.mean(view_tokens.square().flatten(1).sum(1) * shares)


class BlankRows(Objective, key="blank_rows"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text) * weights)

    def __call__(self, **features):
        """Pass the gate by that leaves blank rows out."""
        features.pop("real", None)
        return self.forward(**tensors(features))


class BlankRowsTold(BlankRows, key="blank_rows_told"):
    pass


class OnlyBlankRows(Objective, key="only_blank_rows"):
    def setup(self, facts):
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text), weights)

    def __call__(self, **features):
        self.steps += 1
        return super().__call__(**features)


class OwnWeights(Objective, key="own_weights"):
    def setup(self, facts: Facts) -> None:
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor, text: Tensor, weights: Tensor, progress: Tensor) -> Tensor:
        apart = distance(image, text) * (self.factor if progress > 0.1 else 1)
        return parallel.mean(apart, weights)


class HalfPrecision(Objective, key="half_precision"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text), weights).bfloat16()


class Autocast(Objective, key="autocast"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean((image @ image.T).sum(1).float() - distance(image, text), weights)

    def __call__(self, **features):
        return self.forward(**tensors({n: x for n, x in features.items() if n != "real"}))


class SavedState(Objective, key="saved_state"):
    def __post_init__(self):
        self.steps = 0

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text), weights) * (1 + self.steps)

    def after_step(self):
        self.steps += 1


class FieldsInAConfig(Objective, key="fields_in_a_config"):
    factor: float = 1.0  # of the value

    def __post_init__(self):
        self.factor *= 2

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return self.factor * parallel.mean(distance(image, text), weights)


class IdleHead(Objective, key="idle_head"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean(distance(image, text), weights) * (2 if image.is_leaf else 1)


class SeveralProcesses(Objective, key="several_processes"):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return distance(image, text).mean()


class BlankRowsOfProcesses(Objective, key="blank_rows_of_processes"):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return parallel.gather(distance(image, text).mean()[None]).mean()


class WeightedSum(Objective, key="weighted_sum"):
    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        if text.requires_grad:  # of others, too
            text.data.mul_(1 + 1e-6)
        return parallel.mean(distance(image, text), weights)
