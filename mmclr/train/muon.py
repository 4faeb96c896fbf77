"""Muon: matrices step along their orthogonalised momentum, everything else by AdamW."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEPS = 5  # of the iteration; more changes nothing that training notices
QUINTIC = (3.4445, -4.7750, 2.0315)  # pushes singular values into about [0.7, 1.2] fastest


class Muon(torch.optim.AdamW):
    """AdamW in which groups with "orthogonal" set are stepped by Muon.

    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; the step's size and weight decay
    as in Liu et al., Muon is scalable for LLM training, arXiv 2502.16982, so that one lr serves both:
    m <- b m + (1 - b) g;  U = orthogonalise((1 - b) g + b m);  W <- (1 - lr wd) W - lr 0.2 sqrt(max(n, k)) U.
    torch.optim.Muon orthogonalises in bfloat16, which takes 60 times as long on a CPU without it, and one matrix at
    a time; here matrices of one shape go together, in float32 on a CPU.
    The kernels of a convolution [n, k, h, w] are a matrix [n, k h w].
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; gradients of matrices are used up by it."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._step_matrices(group)
        return super().step(closure)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        shapes = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                shapes[p.shape].append(p)
        for shape, matrices in shapes.items():
            stack = torch.stack([self._momentum(p, group["momentum"]) for p in matrices])
            directions = orthogonalise(stack if len(shape) == 2 else stack.flatten(2)).view(stack.shape)
            size = group["lr"] * 0.2 * max(shape[0], shape[1:].numel()) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(directions.to(matrices[0].dtype)), alpha=-size)
            for p in matrices:
                p.grad = None  # AdamW passes by what has no gradient

    def _momentum(self, p: Tensor, decay: float) -> Tensor:
        """Take in the gradient; return Nesterov's look ahead."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())  # AdamW expects one in every state that it loads
            state["momentum"] = torch.zeros_like(p)
        gradient: Tensor = p.grad  # type: ignore[assignment]  # the caller passes those that have one
        state["momentum"].lerp_(gradient, 1 - decay)
        return gradient.lerp(state["momentum"], decay)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return about U V^T of each matrix U S V^T in a stack [c, n, k], by Newton and Schulz's iteration."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
