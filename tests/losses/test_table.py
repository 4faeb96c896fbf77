"""Per-sample state: who keeps which row, what a checkpoint holds, and what another number of ranks makes of it."""

import pytest
import torch

from mmclr import parallel
from mmclr.losses.per_sample_state import Table
from tests.ranks import run

FIRST = torch.tensor([-1.0, 0.5])


def test_rows_begin_alike_and_keep_what_is_written():
    table = Table(10, FIRST)
    table.write(torch.tensor([7, 2, -1]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]))
    assert table.read(torch.tensor([2, 7, 0, -1])).tolist() == [[3, 4], [1, 2], [-1, 0.5], [-1, 0.5]]


def test_what_comes_twice_is_averaged_and_integers_agree():
    table, numbers = Table(4, FIRST), torch.tensor([1, 3, 1])
    table.write(numbers, torch.tensor([[1.0, 2.0], [5.0, 5.0], [3.0, 6.0]]))
    assert table.read(numbers).tolist() == [[2, 4], [5, 5], [2, 4]]
    tags = Table(4, torch.tensor([-1]))
    tags.write(numbers, torch.tensor([[1 << 60], [2], [1 << 60]]))
    assert tags.read(torch.tensor([0, 1, 3])).tolist() == [[-1], [1 << 60], [2]]


def test_it_keeps_its_type_where_a_module_changes_its_own():
    module = torch.nn.Sequential(Table(4, FIRST), torch.nn.Linear(2, 2)).double().bfloat16()
    assert module[0].rows.dtype == torch.float32
    assert not list(module[0].buffers())


def test_a_state_without_it_is_refused():
    with pytest.raises(RuntimeError, match="rows"):
        Table(4, FIRST).load_state_dict({})


def fill(count, seed):
    """Write random rows, some of them on several ranks, each rank its share; return the table's state."""
    numbers = torch.randint(0, count, (12,), generator=torch.Generator().manual_seed(seed))
    values = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))[numbers]
    table = Table(count, FIRST)
    table.write(parallel.own_rows(numbers), parallel.own_rows(values))
    return table, numbers


def filled_by_ranks(count, seed):
    table, numbers = fill(count, seed)
    rows = parallel.gather(table.read(parallel.own_rows(numbers)))
    return len(table.rows), rows, table.state_dict() if parallel.rank() == 0 else table.state_dict()["rows"].shape


def loaded_by_ranks(count, state):
    table = Table(count, FIRST)
    table.load_state_dict(state)
    return table.rows, table.state_dict()["rows"].clone()


@pytest.mark.dist
@pytest.mark.parametrize("count", [1, 7, 40])
def test_ranks_share_the_rows_and_a_checkpoint_holds_all(count, monkeypatch):
    alone, numbers = fill(count, 3)
    whole = alone.state_dict()["rows"]
    for world in (2, 4):
        (kept, rows, state), *others = run(world, filled_by_ranks, count, 3)
        assert kept == -(-count // world)
        torch.testing.assert_close(state["rows"], whole)
        torch.testing.assert_close(rows, whole[numbers])
        assert all(shape == whole.shape for *_, shape in others)
        again = Table(count, FIRST)
        again.load_state_dict(state)
        assert torch.equal(again.state_dict()["rows"], state["rows"])
    for rank, (mine, saved) in enumerate(run(4, loaded_by_ranks, count, {"rows": whole})):
        assert torch.equal(mine[: len(whole[rank::4])], whole[rank::4])
        assert rank > 0 or torch.equal(saved, whole)


def saved_in_parts(count):
    from mmclr.losses import per_sample_state as table

    together, table.TOGETHER = table.TOGETHER, 16  # two rows of each rank at a time
    made = fill(count, 5)[0].state_dict()["rows"].clone()
    table.TOGETHER = together
    return made


@pytest.mark.dist
def test_a_large_table_is_put_together_in_parts():
    torch.testing.assert_close(run(4, saved_in_parts, 40)[0], fill(40, 5)[0].state_dict()["rows"])
