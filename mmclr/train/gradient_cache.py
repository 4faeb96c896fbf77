"""A global batch of any size in the memory of a micro-batch, with the gradient of the whole batch.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021, arXiv 2101.06983.
Here the loss and its collectives run once; every parameter gets its exact gradient, scale and bias included; and
what is random is the same in both passes, because each step seeds itself.

What compares samples needs all of them: it is scored once, on features that the first pass kept. What has a row per
token (captions) would not fit into memory and need not wait for other samples: the second pass scores it, micro-batch
by micro-batch. What each token counts is taken from the whole batch beforehand, so the parts add up to the whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from mmclr import vocabulary
from mmclr.data.stream.batch import Batch
from mmclr.train.step import Stage, Step
from mmclr.train.strategies import Plain


def backward(
    strategy: Plain, batch: Batch, progress: float, size: int, seed: Callable[[], object]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run forward and backward over micro-batches of `size` rows; return the loss and its terms.

    `seed` puts the generators where they were when the step began.
    """
    bare, step, parts = cast(Step, strategy.step), strategy.wrapped, batch.split(size)
    own = {name: getattr(batch, name) for name in sorted(bare.wanted & bare.from_batch & bare.per_sample)}
    leaves = _embed(step, parts, progress, seed)
    with strategy.local():
        loss, terms = step(parts[0], progress, Stage.COMPARE, {**own, **leaves})
        if loss.requires_grad:
            strategy.backward(loss)
    factor = 1.0 if strategy.scale is None else 1 / strategy.scale.value  # backward multiplies once more
    gradients = {name: leaf.grad * factor for name, leaf in leaves.items() if leaf.grad is not None}
    starts = range(0, len(batch.weights), size)
    for part, start in zip(parts, starts):
        given = {name: value[start : start + size] for name, value in {**own, **gradients}.items()}
        last = part is parts[-1]
        with contextlib.nullcontext() if last else strategy.local():
            seed()
            pulled, more, told = step(part, progress, Stage.PULL, given)
            strategy.backward(pulled + strategy.zero_gradient_term() if last else pulled)
        loss = loss + more
        terms = {**terms, **{name: terms.get(name, 0.0) + told[name] for name in sorted(bare.dense)}}
    return loss.detach(), terms


@torch.no_grad()
def _embed(step: nn.Module, parts: list[Batch], progress: float, seed: Callable[[], object]) -> dict[str, Tensor]:
    """Return the features of all rows, those that have one as leaves that collect the gradient."""
    rows: dict[str, list[Tensor]] = {}
    for part in parts:
        seed()
        for name, value in step(part, progress, Stage.EMBED).items():
            rows.setdefault(name, []).append(value)
    taught = vocabulary.names(gradient=True)
    return {name: torch.cat(values).requires_grad_(name in taught) for name, values in rows.items()}
