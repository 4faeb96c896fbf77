"""Balanced assignments of samples to prototypes: Sinkhorn's iteration over the rows of all ranks."""

import torch
from torch import Tensor

from mmclr import parallel


@torch.no_grad()
def sinkhorn(scores: Tensor, eps: float, iterations: int, weights: Tensor | None = None) -> Tensor:
    """Return shares [b, K] that sum to 1 in each row, and over the rows of all ranks about evenly to each column.

    Cuturi, NeurIPS 2013, arXiv 1306.0895, as in SwAV: exp(scores / eps), whose columns and rows are divided by their
    sums in turn. Only K sums go between ranks. Rows count by weights [b]; scores [b, K] are this rank's.
    """
    shares = parallel.shares(torch.ones_like(scores[:, 0]) if weights is None else weights.to(scores))
    found = ((scores - parallel.largest(scores)) / eps).exp()
    for _ in range(iterations):
        found = found / parallel.total(shares @ found).clamp_min(torch.finfo(found.dtype).tiny)
        found = found / found.sum(1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
    return found
