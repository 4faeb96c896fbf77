"""A global batch of any size in the memory of a micro-batch, with the gradient of the whole batch.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021, arXiv 2101.06983.
Here the loss and its collectives run once; every parameter gets its exact gradient, scale and bias included; and
what is random is the same in both passes, because each step seeds itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmclr.data.batch import Batch
from mmclr.train.step import FROM_BATCH
from mmclr.train.strategies import Plain


def backward(
    strategy: Plain, batch: Batch, progress: float, size: int, seed: Callable[[], object]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run forward and backward over micro-batches of `size` rows; return the loss and its terms.

    `seed` puts the generators where they were when the step began.
    """
    step, parts = strategy.wrapped, batch.split(size)
    leaves = _embed(step, parts, progress, seed)
    with strategy.local():
        loss, terms = step(parts[0], progress, "score", leaves)
        strategy.backward(loss)
    factor = 1.0 if strategy.scale is None else 1 / strategy.scale.value  # backward multiplies once more
    gradients = {name: leaf.grad * factor for name, leaf in leaves.items() if leaf.grad is not None}
    starts = range(0, len(batch.weights), size)
    for part, start in zip(parts, starts):
        pulls = {name: gradient[start : start + size] for name, gradient in gradients.items()}
        if part is parts[-1]:
            strategy.backward(_pull(step, part, progress, pulls, seed) + strategy.touch())
        else:
            with strategy.local():
                strategy.backward(_pull(step, part, progress, pulls, seed))
    return loss.detach(), terms


@torch.no_grad()
def _embed(step: nn.Module, parts: list[Batch], progress: float, seed: Callable[[], object]) -> dict[str, Tensor]:
    """Return the features of all rows, as leaves that collect gradients."""
    rows: dict[str, list[Tensor]] = {}
    for part in parts:
        seed()
        for name, value in step(part, progress, "embed").items():
            rows.setdefault(name, []).append(value)
    whole = {name: torch.cat(values) for name, values in rows.items()}
    return {name: x if name in FROM_BATCH else x.requires_grad_() for name, x in whole.items()}


def _pull(step: nn.Module, part: Batch, progress: float, pulls: dict[str, Tensor], seed: Callable[[], object]) -> Any:
    seed()
    return step(part, progress, "pull", pulls)
