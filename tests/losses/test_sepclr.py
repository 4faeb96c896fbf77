"""sepclr: the card's terms and total, a loop, who has which gradient, and the head that it trains."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmclr import heads
from mmclr.config import ConfigError
from mmclr.heads.split import Split, capped
from mmclr.losses import Facts, build
from mmclr.losses.moments import log_mean_kernel
from mmclr.losses.regularizers.sepclr import joint_entropy, separate, shared
from tests import bounds
from tests.losses.cards import random_pairs


def double(values):
    return torch.tensor(values, dtype=torch.float64)


C1, C2 = double([(1, 0), (0.6, 0.8), (0, 1)]), double([(0.8, 0.6), (0, 1), (-0.6, 0.8)])
S1, S2 = double([(0.3, 0), (0.5, 0), (0, 1)]), double([(0.1, 0.1), (0.4, 0.2), (0.1, 0.8)])
Y, ONES = double([0, 1, 1]), torch.ones(3, dtype=torch.float64)


def near(value):
    return pytest.approx(value, abs=bounds.printed(6))


def test_the_terms_of_the_card():
    assert ((C1 - C2).square().sum(1).mean()).item() == near(0.4)
    for c in (C1, C2):
        assert log_mean_kernel(c, c, 1.0, unit=False).item() == near(-0.871489)
    assert shared(C1, C2, ONES, 0.5).item() == near(-1.342978)
    assert joint_entropy(C1, double([(0, 0), (0.5, 0), (0, 1)]), ONES, 0.5).item() == near(-0.769966)
    kept = [s * Y[:, None] for s in (S1, S2)]
    assert shared(*kept, Y, 0.5).item() == near(-1.105035)
    assert sum(joint_entropy(c, s, ONES, 0.5).item() for c, s in zip((C1, C2), kept)) / 2 == near(-0.708795)


@pytest.mark.parametrize(("strengths", "total"), [((1, 1, 1), -3.101808), ((1000, 1000, 10), -1058.465444)])
def test_the_total_of_the_card(strengths, total):
    assert separate((C1, S1), (C2, S2), Y, ONES, 0.5, strengths).item() == pytest.approx(total, abs=1e-6)


def dense(one, two, y, w, tau, strengths):
    """All terms with loops over pairs left to torch."""
    (c1, s1), (c2, s2) = one, two
    n, off = len(y), ~torch.eye(len(y)).bool()
    z = lambda x: -(x[:, None] - x).square().sum(2) / (2 * tau)  # noqa: E731
    unif = lambda x: z(x)[off].logsumexp(0) - math.log(n * (n - 1))  # noqa: E731
    mean = lambda x, w: (x * w).sum() / w.sum()  # noqa: E731
    align = lambda a, b, w: mean((a - b).square().sum(1), w) / (2 * tau)  # noqa: E731
    k1, k2 = s1 * y[:, None], s2 * y[:, None]
    null = mean((s1.square() + s2.square()).sum(1), w * (1 - y)) / (4 * tau)
    jem = sum(mean((z(c) + z(k)).logsumexp(1) - math.log(n), w) for c, k in ((c1, k1), (c2, k2))) / 2
    first = align(c1, c2, w) + unif(c1) + unif(c2)
    b_t, b_r, lam = strengths
    return first + b_t * (align(s1, s2, w * y) + unif(k1) + unif(k2)) + b_r * null + lam * jem


def test_equals_the_dense_form_with_gradients():
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(25, 4, generator=g, dtype=torch.float64) for _ in range(4)]
    parts = [(F.normalize(x, dim=1) if i % 2 == 0 else 2 * x).requires_grad_() for i, x in enumerate(parts)]
    y = (torch.rand(25, generator=g) < 0.4).double()
    w, sides = torch.rand(25, generator=g, dtype=torch.float64), (parts[:2], parts[2:])
    values = [f(*sides, y, w, 0.7, (3.0, 2.0, 5.0)) for f in (separate, dense)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    for mine, other in zip(*(torch.autograd.grad(v, parts) for v in values)):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_the_background_is_pulled_to_0_alone():
    """Its s has the gradient s / (2 tau n0) of each side, whatever the other terms do, and targets none of L_null."""
    s1 = S1.clone().requires_grad_()
    (slope,) = torch.autograd.grad(separate((C1, s1), (C2, S2), Y, ONES, 0.5, (1.0, 1.0, 1.0)), s1)
    torch.testing.assert_close(slope[0], S1[0] / (2 * 0.5))
    (null,) = torch.autograd.grad(separate((C1, s1), (C2, S2), Y, ONES, 0.5, (0.0, 1.0, 0.0)), s1)
    assert null[1:].eq(0).all()


def test_limits():
    same = C1[:1].repeat(5, 1)
    zeros = torch.zeros(3, 2, dtype=torch.float64)
    assert joint_entropy(same, same, torch.ones(5).double(), 0.5).abs() < 1e-14
    plain = torch.stack([-(c - C1).square().sum(1) for c in C1]).logsumexp(1).mean() - math.log(3)
    assert joint_entropy(C1, zeros, ONES, 0.5).item() == pytest.approx(plain.item(), rel=1e-12)
    without = separate((C1, S1), (C2, S2), Y, ONES, 0.5, (0.0, 0.0, 0.0))
    assert without.item() == pytest.approx(shared(C1, C2, ONES, 0.5).item(), rel=1e-12)


def ready(key, fields=(), width=8):
    torch.manual_seed(0)
    objective = build(key, dict(fields))
    objective.setup(Facts(width=width))
    return objective.double()


@pytest.mark.parametrize("domain", [[0] * 9, [1] * 9, [-1, 5, 1, 0, 0, 1, 7, -1, 1]])
def test_one_domain_only_is_no_trouble(domain):
    image, text = (double(side).requires_grad_() for side in random_pairs(9))
    objective = ready("sepclr")
    value = objective(image=image, text=text, domain=torch.tensor(domain), weights=torch.ones(9))
    assert value.isfinite()
    for slope in torch.autograd.grad(value, [image, text, *objective.parameters()]):
        assert slope.isfinite().all()
        assert slope.any()


@pytest.mark.parametrize(("domain", "said"), [(0, "no sample"), (1, "every sample")])
def test_a_batch_of_one_domain_is_told(domain, said):
    image, text = (double(side) for side in random_pairs(32))
    with pytest.warns(UserWarning, match=f"sepclr: {said} of the batch is in domain 1, .* set target"):
        ready("sepclr")(image=image, text=text, domain=torch.full((32,), domain), weights=torch.ones(32))


def test_plain_is_sepclr_without_domains():
    """Where every sample is a target and s has no terms of its own, both are the same."""
    image, text = (double(side) for side in random_pairs(9))
    plain, full = ready("sepclr_plain"), ready("sepclr", {"b_t": 0.0, "b_r": 0.0})
    value = plain(image=image, text=text, weights=torch.ones(9))
    other = full(image=image, text=text, domain=torch.ones(9).long(), weights=torch.ones(9))
    assert value.item() == pytest.approx(other.item(), rel=1e-12)


def test_the_head_is_its_common_part_in_use():
    objective = ready("sepclr", {"common": 5, "salient": 3})
    image = double(random_pairs(9)[0])
    c, s = objective.head.parts(image, "image")
    assert (c.shape, s.shape, objective.head.width) == ((9, 5), (9, 3), 5)
    torch.testing.assert_close(objective.head(image, "image"), c)
    torch.testing.assert_close(F.normalize(image @ objective.head.matrix("image").T, dim=1), c)
    assert not torch.allclose(c, objective.head.parts(image, "text")[0])
    both = heads.build({"use": "split", "common": 5, "salient": 3, "both": True}).make(8).double()
    both.load_state_dict(objective.head.state_dict())
    assert both.width == 8
    assert both.matrix("image") is None
    torch.testing.assert_close(both(image, "image"), F.normalize(torch.cat([c, s], 1), dim=1))


def test_a_cap_shortens_what_is_longer_alone():
    x = double([(3, 4), (0.3, 0.4), (30, 40), (0, 0)]).requires_grad_()
    found = capped(x, 10.0)
    assert found.tolist() == [[3, 4], [0.3, 0.4], pytest.approx([6, 8]), [0, 0]]
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()
    with pytest.raises(ConfigError, match="norm_cap above 0"):
        heads.build({"use": "split", "norm_cap": 0})
    assert Split().make(8).width == 64
