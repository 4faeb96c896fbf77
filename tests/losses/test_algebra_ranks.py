"""The primitives over 2 and 4 processes, many tiles each, equal one process: values and all gradients."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses import algebra
from mmclr.losses.algebra import tiles
from tests import bounds
from tests.ranks import run

pytestmark = pytest.mark.dist
N, M, D = 80, 112, 6


def whole(world_seed=0):
    g = torch.Generator().manual_seed(world_seed)
    unit = lambda n: F.normalize(torch.randn(n, D, generator=g, dtype=torch.float64), dim=1)  # noqa: E731
    return {
        "x": unit(N),
        "y": unit(M),
        "queue": unit(50),
        "row_scale": torch.rand(N, generator=g, dtype=torch.float64) + 0.5,
        "col_scale": torch.rand(M, generator=g, dtype=torch.float64) + 0.5,
        "rows": torch.randint(0, 9, (N,), generator=g),
        "cols": torch.randint(0, 9, (M,), generator=g),
    }


def dual(t):
    lse = algebra.dual_lse(t["x"], t["y"], t["scale"], exclude=algebra.Equal(t["rows"], t["cols"]), split=True)
    return torch.cat(lse[:2]), torch.cat(lse[3:])


def dual_apart(t):
    lse = algebra.dual_lse(
        t["x"],
        t["y"],
        t["scale"],
        exclude=algebra.Equal(t["rows"], t["cols"]),
        split=True,
        row_scale=t["row_scale"],
        col_scale=t["col_scale"],
    )
    return torch.cat(lse[:2]), torch.cat(lse[3:])


def dual_huge_scale(t):
    lse = algebra.dual_lse(t["x"], t["y"], 1000 * t["scale"])  # beyond what one shift can serve, in float64, too
    return lse.row / 1000, lse.col / 1000


def queue(t):
    lse = algebra.dual_lse(t["x"], t["queue"], t["scale"], shared=True)
    return lse.row, lse.col / parallel.world() ** 0.5  # the columns are the same on every rank: count them once


def top(t):
    return (algebra.top(t["x"], t["y"], 5, t["scale"], exclude=algebra.Equal(t["rows"], t["cols"])).values,)


def expected(t):
    return tuple(algebra.expected(t["x"], t["y"], 4.0))


def weighted(t):
    rows, cols = parallel.gather(t["rows"]), parallel.gather(t["cols"])
    found = algebra.weighted(t["x"], t["y"], lambda r, c: (rows[r, None] - cols[c]).abs() + 1.0, t["scale"])
    return found.row, found.col, found.row / found.row_total, found.col / found.col_total


def low_rank(t):
    return (algebra.low_rank(t["x"], t["y"], t["x"].square(), t["y"]),)


def pair_sum(t):
    found = algebra.pair_sum(t["x"], t["y"], t["scale"], t["scale"] - 9, weights=(t["row_scale"], t["col_scale"]))
    return (found.total / parallel.world() ** 0.5,)


def joint(t):
    products = [(t["x"], t["y"]), (t["x"].square(), t["y"].square())]
    return tuple(algebra.joint_lse(products, lambda s, r: 9 * s / (1 + r), exclude=algebra.Equal(t["rows"], t["cols"])))


def joint_vectors(t):
    """Vectors of rows and columns, and a tile of what belongs to two samples, told by their numbers."""
    rows, cols = parallel.gather(t["rows"]), parallel.gather(t["cols"])
    more = {"rows": [t["row_scale"]], "cols": [t["col_scale"]], "pairs": [lambda r, c: (rows[r, None] - cols[c]).abs()]}
    lse = algebra.joint_lse([(t["x"], t["y"])], lambda s, a, b, w: 9 * s * a + b * w, **more)
    total = algebra.joint_sum(
        [(t["x"], t["y"])], lambda s, a, b, w: s.exp() * a * b * w, **more, only=lambda r, c: rows[r, None] != cols[c]
    )
    return (*lse, *total)


PROBES = (dual, dual_apart, dual_huge_scale, queue, top, expected, weighted, low_rank, pair_sum, joint, joint_vectors)


def probe(number, dtype):
    """The sum of random multiples of the values over all ranks, and the gradients, made whole again."""
    tiles.TILE["cpu"] = (16, 32)
    parts = {}
    for name, value in whole().items():
        own = value if name == "queue" else parallel.own_rows(value)
        parts[name] = own.to(dtype).clone().requires_grad_() if own.is_floating_point() else own
    parts["scale"] = torch.tensor(7.0, dtype=dtype, requires_grad=True)
    loss = sum(parallel.total(value.square().sum()) for value in PROBES[number](parts))
    leaves = {name: leaf for name, leaf in parts.items() if leaf.requires_grad}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    out = {"loss": loss.detach()}
    for (name, leaf), grad in zip(leaves.items(), found):
        grad = torch.zeros_like(leaf) if grad is None else grad
        replicated = name in ("queue", "scale")
        out[name] = (parallel.total(grad) if replicated else parallel.gather(grad)) / parallel.world()
    return out


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("number", range(len(PROBES)), ids=[p.__name__ for p in PROBES])
def test_ranks_together_equal_one_process(number, world):
    huge = PROBES[number] is dual_huge_scale
    for dtype in (torch.float64, torch.float32)[: 1 if huge else 2]:  # float32 has no digits left of 7000
        tolerance = bounds.bound(dtype, terms=64, size=7000 if huge else 14)
        before = tiles.TILE["cpu"]
        alone = probe(number, dtype)
        tiles.TILE["cpu"] = before
        for found in run(world, probe, number, dtype):
            for name, expected in alone.items():
                error = (found[name] - expected).norm() / expected.norm().clamp_min(1e-6)
                assert error <= tolerance, f"{name} is off by {error}"
