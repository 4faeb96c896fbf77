"""What an anchor should be close to, where that is more than its own pair."""

import torch
from torch import Tensor

from mmclr import parallel


def mean_of_equals(x: Tensor, ids: Tensor) -> Tensor:
    """Return for each of this rank's samples the mean of x over all samples of all ranks that have its id.

    x [b, D] and ids int64 [b] are this rank's rows; the result is [b, D], differentiable in x.
    """
    groups, members = torch.unique(parallel.gather(ids), return_inverse=True, return_counts=True)[1:]
    mine = parallel.own_rows(groups)
    sums = parallel.total(x.new_zeros(len(members), x.shape[1]).index_add(0, mine, x))
    return (sums / members[:, None]).index_select(0, mine)
