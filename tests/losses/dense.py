"""The primitives of the engine as anybody would write them, with the whole matrix: the oracle of its tests."""

from __future__ import annotations

import torch
from torch import Tensor

INF = torch.inf


def logsumexp(s: Tensor, among: Tensor, dim: int) -> Tensor:
    """Log-sum-exp over the pairs in `among`; -inf, with gradient 0, where there are none."""
    some = among.any(dim)
    filled = torch.where(some.unsqueeze(dim), s.masked_fill(~among, -INF), 0.0)
    return torch.where(some, filled.logsumexp(dim), -INF)


def dual_lse(x, y, scale, excluded, split, row_scale, col_scale):
    s = scale * x @ y.T
    of_row = s if row_scale is None else s * row_scale[:, None]
    of_col = s if col_scale is None else s * col_scale
    groups = [~excluded, excluded] if split else [~excluded]
    out = [part for g in groups for part in (logsumexp(of_row, g, 1), logsumexp(of_col, g, 0))]
    return [*out, s.diagonal()] if len(x) == len(y) else out


def pair_sum(x, y, scale, bias, excluded, weights):
    logits = scale * x @ y.T + bias
    w = torch.ones_like(logits) if weights is None else weights[0][:, None] + weights[1]
    total = (w * torch.logaddexp(logits, torch.zeros_like(logits)) * ~excluded).sum()
    return [total[None], logits.diagonal()] if len(x) == len(y) else [total[None]]


def expected(x, y, scale, excluded, detach):
    c = x @ y.T
    out = []
    for dim in (1, 0):
        some = (~excluded).any(dim)
        p = torch.where(some.unsqueeze(dim), (scale * c).masked_fill(excluded, -INF), 0.0).softmax(dim)
        p = p.detach() if detach else p
        out.append(torch.where(some, (p * c).masked_fill(excluded, 0.0).sum(dim), 0.0))
    return out


def weighted(x, y, scale, weight):
    s = scale * x @ y.T
    return [(weight * s).sum(1), (weight * s).sum(0)]
