"""Random cases of the engine's primitives: shapes, scales, duplicates, masks, dtypes, tile sizes."""

from __future__ import annotations

import random

import torch
from torch.nn import functional as F

from mmclr.losses import algebra
from mmclr.losses.algebra import tiles
from tests import bounds
from tests.losses import dense

PRIMITIVES = ("dual_lse", "pair_sum", "expected", "weighted", "top", "joint_lse", "joint_sum", "chosen")


def check(primitive: str, seed: int) -> None:
    """Compare one random case with the dense oracle in float64: values and every gradient."""
    rng, generator = random.Random(f"{primitive}{seed}"), torch.Generator().manual_seed(seed)
    dtype = rng.choice([torch.float64, torch.float32, torch.float32, torch.bfloat16])
    n = rng.choice([1, 2, 3, 17, 40, rng.randint(1, 90)])
    m = n if rng.random() < 0.6 else rng.choice([1, 5, 33, rng.randint(1, 90)])
    width = rng.choice([2, 3, 8, 64, rng.choice([300, 2048])])
    x, y = features(rng, generator, n, m, width, dtype)
    scale = torch.tensor(rng.choice([0.0, 1.0, 5.0, 14.3, 60.0, 100.0, 200.0]), dtype=torch.float64)
    mask, excluded = exclusion(rng, generator, n, m)
    old, tiles.TILE["cpu"] = tiles.TILE["cpu"], (rng.choice([16, 32, 512]), rng.choice([16, 48, 1024]))
    try:
        PROBES[primitive](rng, generator, x, y, scale, mask, excluded)
    finally:
        tiles.TILE["cpu"] = old


def features(rng, generator, n, m, width, dtype):
    """Unit vectors (or longer ones) with repeats; sometimes aligned or opposed."""
    x = F.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=1)
    y = F.normalize(torch.randn(m, width, generator=generator, dtype=torch.float64), dim=1)
    kind = rng.choice(["free", "free", "aligned", "opposed", "repeated", "one", "long"])
    if kind in ("aligned", "opposed"):
        both = min(n, m)
        y[:both] = x[:both] * (1 if kind == "aligned" else -1)
    if kind == "repeated":
        x, y = x[torch.arange(n) // 2], y[torch.arange(m) // 3]
    if kind == "one":
        x, y = x[:1].repeat(n, 1), x[:1].repeat(m, 1) * rng.choice([1, -1])
    if kind == "long":
        x = x * 1.7
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def exclusion(rng, generator, n, m):
    """A mask of the engine, and the same as a boolean matrix (True: left out)."""
    rows, cols = torch.randint(0, 6, (n,), generator=generator), torch.randint(0, 6, (m,), generator=generator)
    equal, eye = rows[:, None] == cols, torch.eye(n, m).bool()
    matrix = torch.rand(n, m, generator=generator) < rng.choice([0.1, 0.9, 1.0])
    where = algebra.Where(lambda r, c: matrix[r, c])
    both = algebra.Either(algebra.Equal(rows, cols), algebra.Pairs())
    return rng.choice(
        [
            (None, torch.zeros(n, m).bool()),
            (algebra.Pairs(), eye),
            (algebra.Equal(rows, cols), equal),
            (where, matrix),
            (both, equal | eye),
        ]
    )


def probe_dual_lse(rng, generator, x, y, scale, mask, excluded):
    apart = rng.random() < 0.3
    scales = [torch.rand(len(s), generator=generator, dtype=torch.float64) * 2 + 0.1 if apart else None for s in (x, y)]
    split = mask is not None and rng.random() < 0.5
    keep = rng.choice([0, 5000, 1 << 24])
    hardness = scale.item() * (2.1 if apart else 1)

    def ours(x, y, scale, row, col):
        lse = algebra.dual_lse(x, y, scale, exclude=mask, split=split, row_scale=row, col_scale=col, keep_bytes=keep)
        out = [lse.row, lse.col, *([lse.excluded_row, lse.excluded_col] if split else [])]
        return [*out, lse.pair] if len(x) == len(y) else out

    agree(
        ours,
        lambda *leaves: dense.dual_lse(*leaves[:3], excluded, split, *leaves[3:]),
        (x, y, scale, *scales),
        hardness,
    )


def probe_pair_sum(rng, generator, x, y, scale, mask, excluded):
    bias = torch.tensor(rng.choice([0.0, -10.0, -17.0, 5.0]), dtype=torch.float64)
    weights = None
    if rng.random() < 0.5:
        weights = [torch.rand(len(s), generator=generator, dtype=torch.float64) for s in (x, y)]

    def ours(x, y, scale, bias):
        found = algebra.pair_sum(x, y, scale, bias, exclude=mask, weights=weights)
        return [found.total[None], found.pair] if len(x) == len(y) else [found.total[None]]

    agree(ours, lambda *leaves: dense.pair_sum(*leaves, excluded, weights), (x, y, scale, bias), scale.item())


def probe_expected(rng, generator, x, y, scale, mask, excluded):
    detach = rng.random() < 0.5

    def ours(x, y):
        return list(algebra.expected(x, y, scale.item(), exclude=mask, detach=detach))

    agree(ours, lambda x, y: dense.expected(x, y, scale, excluded, detach), (x, y), scale.item())


def probe_weighted(rng, generator, x, y, scale, mask, excluded):
    weight = torch.rand(len(x), len(y), generator=generator, dtype=torch.float64) * ~excluded

    def ours(x, y, scale):
        found = algebra.weighted(x, y, lambda r, c: weight[r, c], scale)
        for total, dim in ((found.row_total, 1), (found.col_total, 0)):
            limit = bounds.bound(total.dtype, terms=weight.shape[dim])
            torch.testing.assert_close(total.double(), weight.sum(dim), rtol=limit, atol=0)
        return list(found[:2])

    agree(ours, lambda *leaves: dense.weighted(*leaves, weight), (x, y, scale))


def probe_top(rng, generator, x, y, scale, mask, excluded):
    k = rng.choice([1, 2, 7, 200])
    chosen = []

    def ours(x, y, scale):
        found = algebra.top(x, y, k, scale, exclude=mask)
        chosen.append(found)
        return [found.values]

    def oracle(x, y, scale):
        """The values of the chosen columns: equal rows may differ in the last bit, so either may come first."""
        s = (scale * x @ y.T).masked_fill(excluded, -torch.inf)
        values = s.gather(1, chosen[0].columns)
        best = s.sort(dim=1, descending=True).values[:, :k]
        limit = bounds.bound(chosen[0].values.dtype, terms=x.shape[1] + 16, size=1 + 2 * scale.item())
        torch.testing.assert_close(torch.where(best == -torch.inf, best, values), best, rtol=0, atol=limit)
        return [torch.where(best == -torch.inf, best, values)]

    agree(ours, oracle, (x, y, scale))


def joint_arguments(rng, generator, x, y):
    """Vectors and constant tiles that a function of pairs may take, and how they are given."""
    u, v = (torch.randn(len(side), 5, generator=generator, dtype=torch.float64) for side in (x, y))
    a, b = (torch.rand(len(side), generator=generator, dtype=torch.float64) + 0.5 for side in (x, y))
    w = torch.rand(len(x), len(y), generator=generator, dtype=torch.float64)
    some = [rng.random() < 0.7 for _ in range(3)]
    given = lambda a, b: {"rows": [a][: some[0]], "cols": [b][: some[1]], "pairs": [lambda r, c: w[r, c]][: some[2]]}  # noqa: E731
    tiles = lambda a, b: [*[a[:, None]][: some[0]], *[b][: some[1]], *[w][: some[2]]]  # noqa: E731
    return (u, v, a, b), given, tiles


def probe_joint_lse(rng, generator, x, y, scale, mask, excluded):
    leaves, given, tiles = joint_arguments(rng, generator, x, y)
    logit = lambda s, r, *more: float(scale) * s / (0.5 + r.sigmoid()) + sum(m.log() for m in more)  # noqa: E731

    def ours(x, y, u, v, a, b):
        return list(algebra.joint_lse([(x, y), (u, v)], logit, **given(a, b), exclude=mask))

    def oracle(x, y, u, v, a, b):
        z = logit(x @ y.T, u @ v.T, *tiles(a, b))
        return [dense.logsumexp(z, ~excluded, dim) for dim in (1, 0)]

    agree(ours, oracle, (x, y, *leaves), 2 * scale.item())


def probe_joint_sum(rng, generator, x, y, scale, mask, excluded):
    leaves, given, tiles = joint_arguments(rng, generator, x, y)
    inside = torch.ones_like(excluded) if mask is None else excluded
    function = lambda s, r, *more: F.softplus(scale.item() * s) * r.sin() + sum(m * s for m in more)  # noqa: E731

    def ours(x, y, u, v, a, b):
        found = algebra.joint_sum([(x, y), (u, v)], function, **given(a, b), only=mask)
        for count, dim in ((found.row_count, 1), (found.col_count, 0)):
            torch.testing.assert_close(count.double(), inside.sum(dim).double(), rtol=0, atol=0)
        return list(found[:2])

    def oracle(x, y, u, v, a, b):
        f = function(x @ y.T, u @ v.T, *tiles(a, b)) * inside
        return [f.sum(1), f.sum(0)]

    agree(ours, oracle, (x, y, *leaves), scale.item())


def probe_chosen(rng, generator, x, y, scale, mask, excluded):
    columns = torch.randint(0, len(y), (len(x), rng.choice([1, 3, 20])), generator=generator)
    agree(lambda x, y: [algebra.chosen(x, y, columns)], lambda x, y: [(x @ y.detach().T).gather(1, columns)], (x, y))


PROBES = {name: globals()[f"probe_{name}"] for name in PRIMITIVES}


def agree(ours, oracle, leaves, hardness=0.0):
    """Compare values and gradients; the oracle sees the same numbers in float64; exponents are up to `hardness`.

    What may differ is what the oracle itself loses in the type of `ours`, several times, beside a few roundings.
    """
    wide = [None if v is None else v.detach().double().requires_grad_() for v in leaves]
    dtype = leaves[0].dtype
    mine = [
        None if v is None else v.detach().to(dtype if i < 2 else _full(dtype)).requires_grad_()
        for i, v in enumerate(leaves)
    ]
    found, expected = ours(*mine), oracle(*wide)
    plain = [None if v is None else v.detach().to(_full(dtype)).requires_grad_() for v in mine]
    exact = [value.detach() for value in expected]
    size = max([1.0, hardness, *(e[e.isfinite()].abs().max().item() for e in exact if e.isfinite().any())])
    # a dot product's terms, the sums along a row and a column, and a few roundings of functions: scaling, exp2, log
    floor = bounds.bound(_full(dtype), terms=leaves[0].shape[1] + len(leaves[0]) + len(leaves[1]) + 16)
    for value, true, own in zip(found, exact, bounds.own_errors(lambda *v: _detached(oracle(*v)), plain, exact)):
        assert value.dtype == _full(dtype)
        same = value.isfinite() == true.isfinite()
        assert same.all(), f"{value} is not {true}"
        off = (value.double() - true)[true.isfinite()].abs()
        assert (off <= floor * size + bounds.SAFETY * own).all(), f"off by {off.max()} of {size}"
    slopes, steep = _gradients(expected, wide), bounds.bound(_full(dtype), terms=4, size=hardness)
    own_slopes = [_gradients(oracle(*turned), plain) for turned in bounds.orders(plain)]
    for i, (name, mine_g, exact_g) in enumerate(zip("xyscdef", _gradients(found, mine), slopes)):
        assert mine_g.isfinite().all(), f"gradient of {name}"
        own = max((turned[i].double() - exact_g).norm() for turned in own_slopes)
        off = (mine_g.double() - exact_g).norm()
        rounding = 1e-2 * mine_g.abs().max() if dtype == torch.bfloat16 and name in "xy" else 0
        # exp turns a rounding of its exponent into as large a relative error; of equal numbers the oracle has none
        few = floor * (exact_g.norm() + exact_g.numel() ** 0.5 * size) + steep * exact_g.norm()
        limit = few + bounds.SAFETY * own + rounding * exact_g.numel() ** 0.5
        assert off <= limit, f"gradient of {name} is off by {off}, {limit} allowed"


def _detached(values):
    return [value.detach() for value in values]


def _gradients(outputs, leaves):
    total = 0.0
    for seed, value in enumerate(outputs):
        g = torch.rand(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
        total = total + (torch.where(value.isfinite(), value, 0.0).double() * g).sum()
    wanted = [v for v in leaves if v is not None]
    return [
        torch.zeros_like(v) if g is None else g
        for v, g in zip(wanted, torch.autograd.grad(total, wanted, allow_unused=True))
    ]


def _full(dtype):
    return torch.float32 if dtype == torch.bfloat16 else dtype
