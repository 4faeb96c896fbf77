"""Targets of an anchor, where they are more than its own pair."""

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import groups


def mean_of_equals(x: Tensor, ids: Tensor) -> Tensor:
    """Return for each of this rank's samples the mean of x over all samples of all ranks that are the same by ids.

    x [b, D] and ids int64 [b] are this rank's rows; the result is [b, D], differentiable in x.
    """
    rows = parallel.rows_of(len(ids))
    numbers, count = groups(rows.gather(ids))
    members, mine = torch.bincount(numbers, minlength=count), rows.own(numbers)
    sums = parallel.total(x.new_zeros(len(members), x.shape[1]).index_add(0, mine, x))
    return (sums / members[:, None]).index_select(0, mine)


def count_of_equals(ids: Tensor) -> Tensor:
    """Return how many samples of all ranks are the same as each of this rank's by ids, int64 [b] -> [b], it too."""
    rows = parallel.rows_of(len(ids))
    numbers, count = groups(rows.gather(ids))
    return torch.bincount(numbers, minlength=count)[rows.own(numbers)]
