"""How far rounding may take a right result: with mmclr/laws/tolerance.py the only place where numeric tolerances
of tests are made.

Two kinds. `bound` is the error of a sum of `terms` numbers of at most `size`, each rounded, by its unit roundoff: for
results whose arithmetic is simple. `own_errors` measures what the plain formula loses in the type under test when it
adds in other orders, as another CPU, instruction set or number of threads does: for results whose conditioning is not
(log-sum-exp at a scale of 200). Neither depends on the CPU that the tests run on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mmclr.laws.tolerance import SAFETY, bound, near

__all__ = ["SAFETY", "bound", "near", "orders", "own_errors", "printed"]

ORDERS = 4  # in which the plain formula adds


def printed(decimals: int = 6) -> float:
    """Return how far a result may be from a number that a card prints with `decimals`: half a unit of its last place.

    Temperatures and scales are float32 wherever the trainer holds them, so a few roundings of float32 come on top.
    """
    return 0.5 * 10.0**-decimals + bound(terms=16)


def orders(leaves: Sequence[Tensor | None]) -> Iterator[list[Tensor | None]]:
    """Yield the leaves with the features of the first two, [n, D] and [m, D], in other orders; gradients flow back."""
    width = leaves[0].shape[1]
    for seed in range(ORDERS):
        order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
        yield [v[:, order] if i < 2 else v for i, v in enumerate(leaves)]


def own_errors(
    formula: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor | None], exact: Sequence[Tensor]
) -> list[float]:
    """Return per result how far `formula` in the leaves' type is from `exact`, at most, over several orders of sums.

    leaves: [n, D] and [m, D] first, whose features are permuted alike; what follows stays. Results that are infinite
    in `exact` do not count.
    """
    worst = [0.0] * len(exact)
    for turned in orders(leaves):
        for i, (value, true) in enumerate(zip(formula(*turned), exact)):
            some = true.isfinite() & value.isfinite()
            if some.any():
                worst[i] = max(worst[i], (value.double() - true)[some].abs().max().item())
    return worst
