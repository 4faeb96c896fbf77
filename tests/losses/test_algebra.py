"""What the engine promises beyond its values: extra columns, memory of tiles, errors, autocast, ties."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import algebra
from mmclr.losses.algebra import tiles
from tests import bounds


def units(n, D=8, seed=0, dtype=torch.float64):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=1).to(dtype).requires_grad_()


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setitem(tiles.TILE, "cpu", (16, 32))


def test_a_queue_and_extra_logits_join_a_row():
    x, y, queue = units(20), units(20, seed=1), units(70, seed=2)
    extra = torch.randn(20, dtype=torch.float64, requires_grad=True)
    rows = algebra.dual_lse(x, queue, 5.0, shared=True).row
    joined = algebra.merge(algebra.merge(algebra.dual_lse(x, y, 5.0).row, rows), extra)
    dense = torch.cat([5 * x @ y.T, 5 * x @ queue.T, extra[:, None]], 1).logsumexp(1)
    torch.testing.assert_close(joined, dense)
    leaves = (x, y, queue, extra)
    for mine, other in zip(torch.autograd.grad(joined.sum(), leaves), torch.autograd.grad(dense.sum(), leaves)):
        torch.testing.assert_close(mine, other)


def test_merging_two_empty_sets_is_empty_with_no_gradient():
    a, b = (torch.tensor([-torch.inf, 0.0], requires_grad=True) for _ in "ab")
    joined = algebra.merge(a, b)
    assert joined.tolist() == [-torch.inf, pytest.approx(0.6931472)]
    joined[1].backward()
    assert a.grad.tolist() == [0, 0.5]


@pytest.mark.parametrize("keep_bytes", [0, 3000, 1 << 20])
def test_kept_tiles_change_no_bit(keep_bytes):
    def gradients(keep):
        x, y = units(50, dtype=torch.float32), units(60, seed=1, dtype=torch.float32)
        lse = algebra.dual_lse(x, y, 10.0, exclude=algebra.Pairs(), keep_bytes=keep)
        return torch.autograd.grad(lse.row.sum() + lse.col.square().sum(), (x, y))

    assert all(torch.equal(a, b) for a, b in zip(gradients(keep_bytes), gradients(0)))


def test_a_second_backward_gives_the_same_again():
    x, y = units(40), units(40, seed=1)
    for value in (algebra.dual_lse(x, y, 3.0).row.sum(), algebra.pair_sum(x, y, 3.0).total):
        first = torch.autograd.grad(value, (x, y), retain_graph=True)
        again = torch.autograd.grad(value, (x, y))
        assert all(torch.equal(a, b) for a, b in zip(first, again))


@pytest.mark.parametrize(
    "value",
    [
        lambda x, y: algebra.dual_lse(x, y).row.sum(),
        lambda x, y: algebra.pair_sum(x, y).total,
        lambda x, y: algebra.expected(x, y).row.sum(),
        lambda x, y: algebra.weighted(x, y, lambda r, c: torch.ones(r.stop - r.start, c.stop - c.start)).row.sum(),
        lambda x, y: algebra.top(x, y, 2).values.sum(),
        lambda x, y: algebra.chosen(x, y, torch.zeros(5, 1, dtype=torch.int64)).sum(),
        lambda x, y: algebra.joint_lse([(x, y)], lambda s: s).row.sum(),
        lambda x, y: algebra.joint_sum([(x, y)], lambda s: s.exp()).row.sum(),
    ],
    ids=["dual_lse", "pair_sum", "expected", "weighted", "top", "chosen", "joint_lse", "joint_sum"],
)
def test_a_second_derivative_is_refused(value):
    x, y = units(5), units(5, seed=1)
    with pytest.raises(RuntimeError, match="no second derivative: leave out create_graph"):
        torch.autograd.grad(value(x, y), x, create_graph=True)


def test_only_what_needs_a_gradient_gets_one():
    x, y, scale = units(40), units(40, seed=1).detach(), torch.tensor(3.0, dtype=torch.float64)
    algebra.dual_lse(x, y, scale).row.sum().backward()
    assert x.grad is not None
    assert y.grad is None
    frozen = algebra.dual_lse(x.detach(), y, scale.requires_grad_()).row.sum()
    (mine,) = torch.autograd.grad(frozen, scale)
    (dense,) = torch.autograd.grad((scale * x.detach() @ y.T).logsumexp(1).sum(), scale)
    torch.testing.assert_close(mine, dense)


def test_without_gradients_nothing_is_kept():
    x, y = units(40), units(40, seed=1)
    with torch.no_grad():
        assert not algebra.dual_lse(x, y).row.requires_grad
        assert not algebra.pair_sum(x, y).total.requires_grad


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[n, D\] and \[m, D\], got \[5, 8\] and \[5, 7\]"):
        algebra.dual_lse(units(5), units(5, D=7))


def test_no_rows_and_no_columns():
    x, y = units(5), units(0)
    assert algebra.dual_lse(x, y).row.tolist() == [-torch.inf] * 5
    assert algebra.dual_lse(y, x).col.tolist() == [-torch.inf] * 5
    assert algebra.pair_sum(x, y).total.item() == 0


def test_weights_of_pairs_may_be_0():
    """Their logarithm is -inf, also for a whole row and column: an empty sum without a gradient."""
    x, y = units(20), units(20, seed=1)
    w = torch.rand(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sub(0.5).clamp_min(0)
    w[3] = w[:, 5] = 0
    lse = algebra.joint_lse([(x, y)], lambda s, log: s + log, pairs=[lambda r, c: w[r, c].log()])
    assert lse.row[3] == lse.col[5] == -torch.inf
    s = x @ y.T
    some = torch.arange(20) != 3
    torch.testing.assert_close(lse.row[some], (w * s.exp()).sum(1).log()[some])
    mine = torch.autograd.grad(lse.row[some].sum(), (x, y))
    for found, expected in zip(mine, torch.autograd.grad((w * s.exp()).sum(1)[some].log().sum(), (x, y))):
        torch.testing.assert_close(found, expected)


def test_what_a_function_leaves_unused_has_no_gradient():
    x, y, a = units(20), units(20, seed=1), torch.ones(20, dtype=torch.float64, requires_grad=True)
    found = algebra.joint_sum([(x, y), (y, x)], lambda s, r, a: r.exp(), rows=[a])
    of_x, of_a = torch.autograd.grad(found.row.sum(), (x, a))
    assert of_a.eq(0).all()
    torch.testing.assert_close(of_x, torch.autograd.grad((y @ x.T).exp().sum(), x)[0])


def test_a_constant_side_costs_no_gradient():
    x, y = units(20), units(20, seed=1).detach()
    algebra.joint_lse([(x, y), (y, y)], lambda s, r: s * r).row.sum().backward()
    assert x.grad is not None
    assert y.grad is None


def test_equal_values_come_by_their_column():
    y = torch.eye(4)[torch.tensor([2, 1, 1, 0, 1, 1, 3, 1])].repeat(6, 1)
    found = algebra.top(torch.eye(4)[1:2], y, 9)
    assert found.columns[0].tolist() == [1, 2, 4, 5, 7, 9, 10, 12, 13]


def test_a_masks_tile_says_what_is_kept():
    """Global numbers of rows and columns, also where a tile is cut off the diagonal."""
    out = torch.empty(3, 4)
    assert algebra.Pairs().keep(slice(2, 5), slice(3, 7), out).tolist() == [[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1]]
    ids = torch.tensor([7, 1 << 62, (1 << 62) + 1, 7, 5, 1 << 62, 9])
    assert algebra.Equal(ids).keep(slice(0, 3), slice(3, 7), out).tolist() == [[0, 1, 1, 1], [1, 1, 0, 1], [1] * 4]
    both = algebra.Either(algebra.Equal(ids), algebra.Pairs(), algebra.Where(lambda r, c: torch.ones(3, 4).bool()))
    assert both.keep(slice(0, 3), slice(3, 7), out).sum() == 0


def test_autocast_does_not_reach_the_engine():
    x, y = units(40, dtype=torch.float32), units(40, seed=1, dtype=torch.float32)
    plain = algebra.dual_lse(x, y, 10.0).row
    with torch.autocast("cpu", torch.bfloat16):
        inside = algebra.dual_lse(x, y, 10.0).row
        inside.sum().backward()
    assert torch.equal(plain, inside)
    assert x.grad.dtype == torch.float32


def test_scale_200_with_opposed_and_repeated_rows_is_finite_and_exact():
    """Here one shift cannot serve all rows: the sums fall back to a maximum of each."""
    x = units(30, dtype=torch.float32)
    y = torch.cat([-x.detach()[:15], x.detach()[:15]]).requires_grad_()
    lse = algebra.dual_lse(x, y, 200.0, exclude=algebra.Where(lambda r, c: (x[r] @ y[c].T) > 0.2))
    s = (200.0 * x.double() @ y.double().T).masked_fill((x @ y.T) > 0.2, -torch.inf)
    torch.testing.assert_close(lse.row.double(), s.logsumexp(1), rtol=bounds.bound(terms=512), atol=1e-3)
    torch.testing.assert_close(lse.col.double(), s.logsumexp(0), rtol=bounds.bound(terms=512), atol=1e-3)


def test_compiled_towers_train_through_the_engine():
    torch.manual_seed(0)
    tower = torch.nn.Linear(8, 8)
    compiled = torch.compile(tower, backend="aot_eager")
    features = torch.randn(20, 8)

    def gradient(through):
        tower.zero_grad()
        x = F.normalize(through(features), dim=1)
        algebra.dual_lse(x, x, 5.0, exclude=algebra.Pairs()).row.sum().backward()
        return tower.weight.grad.clone()

    torch.testing.assert_close(gradient(compiled), gradient(tower))
