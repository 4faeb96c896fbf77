"""Moments of a batch over all ranks."""

import torch
from torch import Tensor

from mmclr import parallel


def logsumexp(x: Tensor) -> Tensor:
    """Return the log-sum-exp of the values [b] of all ranks, [], the same on every rank; -inf if all are."""
    top = parallel.maximum(x.max())
    top = torch.where(top == -torch.inf, 0.0, top)
    return parallel.total((x - top).exp().sum()).log() + top
