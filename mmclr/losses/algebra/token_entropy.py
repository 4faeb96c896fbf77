"""Cross-entropy over a vocabulary whose [tokens, vocabulary] logits never exist: a chunk of rows at a time.

What each token counts is known before, so the gradient is made in the forward pass: 3 matmuls, each chunk once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmclr.losses.algebra.tiles import blocks, full_precision, once, widen

CHUNK_BYTES = 64 << 20


@full_precision
def token_entropy(
    states: Tensor,
    words: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    smoothing: float = 0.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Return sum_i weights_i * CE(states_i words^T, targets_i) over this rank's tokens, a scalar.

    states [n, W], words [N, W], targets [n] int64, weights [n] (no gradient). Of the target, `smoothing` is spread
    evenly over all N words. Memory for `chunk_bytes` of logits, or for one row. Differentiable once.
    """
    states, words = widen(states), widen(words)
    plan = _Plan(targets, weights.detach().to(states), smoothing, chunk_bytes, torch.is_grad_enabled())
    total: Tensor = _TokenEntropy.apply(states, words, plan)
    return total


class _Plan(NamedTuple):
    targets: Tensor
    weights: Tensor
    smoothing: float
    chunk_bytes: int
    differentiate: bool


class _TokenEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, words: Tensor, plan: _Plan) -> Tensor:
        needed = ctx.needs_input_grad if plan.differentiate else (False, False)
        total, ctx.made = _sweep(states, words, plan, needed)
        ctx.plan = plan
        ctx.save_for_backward(states, words)
        return total

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The first backward takes the gradients over, in place; a second makes them anew.
        states, words = ctx.saved_tensors
        made = ctx.made or _sweep(states, words, ctx.plan, ctx.needs_input_grad)[1]
        ctx.made = None
        return *(None if d is None else d.mul_(grad) for d in made), None


def _sweep(
    states: Tensor, words: Tensor, plan: _Plan, needed: Sequence[bool]
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Return the sum, and its gradients in states and words where they are needed."""
    total = states.new_zeros((), dtype=torch.float64)
    d_states = torch.empty_like(states) if needed[0] else None
    d_words = torch.zeros_like(words) if needed[1] else None
    chunks = blocks(len(states), max(1, plan.chunk_bytes // (words.shape[0] * words.element_size())))
    memory = states.new_empty(chunks[0].stop if chunks else 0, words.shape[0])
    for rows in chunks:
        logits = torch.mm(states[rows], words.T, out=memory[: rows.stop - rows.start])
        total += _entropy(logits, plan, rows).sum(dtype=torch.float64)
        if d_states is not None:
            torch.mm(logits, words, out=d_states[rows])
        if d_words is not None:
            d_words.addmm_(logits.T, states[rows])
    return total.to(states.dtype), (d_states, d_words)


def _entropy(logits: Tensor, plan: _Plan, rows: slice) -> Tensor:
    """Return each row's weighted cross-entropy [r], and leave its gradient where the logits [r, N] were."""
    target, weight, smoothing = plan.targets[rows, None], plan.weights[rows, None], plan.smoothing
    aim = (1 - smoothing) * logits.gather(1, target)
    if smoothing:
        aim += smoothing * logits.mean(1, keepdim=True)
    top = logits.amax(1, keepdim=True)
    norm = logits.sub_(top).exp_().sum(1, keepdim=True)
    logits.mul_(weight / norm)
    if smoothing:
        logits.sub_(weight * (smoothing / logits.shape[1]))
    logits.scatter_add_(1, target, (smoothing - 1) * weight)
    return weight * (norm.log() + top - aim)
