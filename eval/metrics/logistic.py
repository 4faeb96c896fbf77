"""Logistic regression by L-BFGS, with scikit-learn's objective, on any device and for features of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Logistic:
    """A linear classifier: logits [n, C] = x W^T + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of x [n, D]."""
        return x.to(self.weight) @ self.weight.T + self.bias


def fit(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    penalty: float = 1.0,
    start: Logistic | None = None,
    steps: int = 1000,
    tolerance: float = 1e-5,
) -> Logistic:
    """Minimise sum_i CE(logits_i, y_i) + penalty / 2 * ||W||^2 over x [n, D], y [n]; the bias goes free.

    scikit-learn's LogisticRegression(C=1 / penalty). Two classes have one weight vector, as there. `start` is a
    solution to start from (that of the neighbouring penalty, in a sweep).
    """
    x = x.double() if x.device.type == "cpu" else x.float()
    rows = 1 if classes == 2 else classes
    weight = torch.zeros(rows, x.shape[1], dtype=x.dtype, device=x.device)
    bias = torch.zeros(rows, dtype=x.dtype, device=x.device)
    if start is not None:
        weight.copy_(start.weight[-rows:]), bias.copy_(start.bias[-rows:])
    weight.requires_grad_(), bias.requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=tolerance / len(x),
        tolerance_change=1e-12,
    )

    def objective() -> Tensor:
        solver.zero_grad()
        logits = x @ weight.T + bias
        if rows == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits), reduction="sum")
        else:
            loss = F.cross_entropy(logits, y, reduction="sum")
        loss = (loss + penalty / 2 * weight.square().sum()) / len(x)  # the same minimum, gradients of order 1
        loss.backward()
        return loss

    solver.step(objective)
    weight, bias = weight.detach(), bias.detach()
    if rows == 1:
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return Logistic(weight, bias)
