"""Per-sample state: rows that belong to numbers (a sample's index, a class), shared out among the ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import parallel

TOGETHER = 1 << 24  # values that are put together at a time for a checkpoint, 64 MiB in float32


class Table(nn.Module):
    """`count` rows like `first` [width]; row k lies on rank k % world, so a rank holds count / world of them.

    Every rank must take part in every call. The rows are no buffer: what copies or cuts a module's buffers would take
    them for replicated. A state dict holds the whole table on the first rank (on the others, zeros without memory), and
    each rank takes its rows out of a whole one: a checkpoint says nothing of how many ranks wrote it.
    """

    def __init__(self, count: int, first: Tensor) -> None:
        super().__init__()
        self.count, self.first = count, first
        self.rows = first.repeat(-(-count // parallel.world()), 1)  # this rank's [count / world, width]

    def draw(self, columns: int) -> None:
        """Draw the first values of every row from a normal distribution, the same whatever the number of ranks."""
        step = max(1, TOGETHER // columns)
        for start in range(0, self.count, step):
            values = torch.randn(min(step, self.count - start), columns)
            offset = (parallel.rank() - start) % parallel.world()
            mine, first = values[offset :: parallel.world()], (start + offset) // parallel.world()
            self.rows[first : first + len(mine), :columns] = mine

    def read(self, numbers: Tensor) -> Tensor:
        """Return the rows of this rank's numbers [n], negative ones standing for no row: [n] -> [n, width]."""
        rows = parallel.rows_of(len(numbers))
        every = rows.gather(numbers)
        at, mine = self._mine(every)
        found = self.rows.new_zeros(len(every), self.rows.shape[1])
        found[at] = self.rows[mine]
        return torch.where(numbers[:, None] < 0, self.first, rows.reduce_scatter(found))

    def write(self, numbers: Tensor, values: Tensor) -> None:
        """Set the rows of this rank's numbers [n]; values [n, width] with one number, of all ranks, are averaged.

        Integers of one number must agree.
        """
        if self.rows.is_floating_point():
            rows, sums, counts = self.sums(numbers, values)
            self.rows[rows] = (sums / counts[:, None]).to(self.rows)
        else:
            at, mine = self._mine(parallel.gather(numbers))
            self.rows[mine] = parallel.gather(values)[at]

    def sums(self, numbers: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return which of this rank's rows [k] are among all ranks' numbers, the sums of their values, and how many."""
        at, mine = self._mine(parallel.gather(numbers))
        rows, places, counts = torch.unique(mine, return_inverse=True, return_counts=True)
        sums = values.new_zeros(len(rows), values.shape[1])
        return rows, sums.index_add(0, places, parallel.gather(values)[at]), counts

    def _mine(self, every: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions [k] of the numbers whose rows are here, and these rows [k]."""
        at = ((every >= 0) & (every % parallel.world() == parallel.rank())).nonzero()[:, 0]
        return at, every[at] // parallel.world()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Table:
        device = fn(torch.zeros(0, device=self.rows.device)).device  # move, and keep the type
        self.rows, self.first = self.rows.to(device), self.first.to(device)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}rows"] = self._whole()

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *others: list[str]
    ) -> None:
        whole = state.get(f"{prefix}rows")
        if whole is None:
            missing.append(f"{prefix}rows")
            return
        mine = whole[parallel.rank() :: parallel.world()]
        self.rows[: len(mine)] = mine.to(self.rows)

    def _whole(self) -> Tensor:
        if parallel.world() == 1:
            return self.rows[: self.count].detach()
        height, width = self.rows.shape
        whole = torch.zeros((), dtype=self.rows.dtype)
        if parallel.rank() == 0:
            whole = whole.repeat(height, parallel.world(), width)
        step = max(1, TOGETHER // (width * parallel.world()))
        for part in (slice(start, start + step) for start in range(0, height, step)):
            every = parallel.gather(self.rows[part])
            if parallel.rank() == 0:
                whole[part].copy_(every.unflatten(0, (parallel.world(), -1)).transpose(0, 1))
        return whole.view(-1, width)[: self.count] if parallel.rank() == 0 else whole.expand(self.count, width)
