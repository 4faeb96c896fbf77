"""The small-loss detector against worked numbers of its paper's code, and against planted wrong pairs."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import reweighters
from mmclr.errors import UserError
from mmclr.reweighters import factors
from mmclr.reweighters.small_loss import lower_of_two

LOSSES = torch.tensor([0.1, 0.2, 0.15, 0.25, 2.0, 2.2, 1.9], dtype=torch.float64)


def pairs(cosines):
    """Return unit vectors of two dimensions whose dot products are the cosines."""
    cosines = torch.as_tensor(cosines, dtype=torch.float64)
    text = torch.stack([cosines, (1 - cosines.square()).sqrt()], 1)
    return {"frozen_image": torch.eye(2, dtype=torch.float64)[:1].expand_as(text), "frozen_text": text,
            "progress": torch.tensor(0.5)}  # fmt: skip


def test_worked_numbers():
    z = (LOSSES - LOSSES.min()) / (LOSSES.max() - LOSSES.min())
    right, apart = lower_of_two(z, 50, 5e-4)
    assert apart.item() == pytest.approx(0.920635 - 0.035714, abs=2e-6)
    assert (right[:4] > 0.95).all()
    assert (right[4:] < 0.05).all()


def test_what_em_ends_at_is_consistent():
    """Two normal distributions with the moments of their members give these very members, by Bayes' rule."""
    z = torch.cat([torch.rand(40, generator=torch.Generator().manual_seed(0)) * 0.4, torch.linspace(0.5, 1, 25)])
    z = ((z - z.min()) / (z.max() - z.min())).double()
    right, apart = lower_of_two(z, 3000, 5e-4)
    joint, means = [], []
    for member in (right, 1 - right):
        means.append((member * z).sum() / member.sum())
        spread = ((member * (z - means[-1]).square()).sum() / member.sum() + 5e-4).sqrt()
        joint.append(torch.distributions.Normal(means[-1], spread).log_prob(z).exp() * member.mean())
    torch.testing.assert_close(right, joint[0] / (joint[0] + joint[1]), rtol=1e-9, atol=1e-9)
    assert means[0] < means[1]
    assert apart.item() == pytest.approx((means[1] - means[0]).item(), rel=1e-9)


def test_wrong_pairs_lose_their_weight():
    (rule,) = reweighters.build({"use": "small_loss"})
    found = factors([rule], pairs(1 - LOSSES / 1.2))
    assert (found[:4] > 1.6).all()
    assert (found[4:] < 0.05).all()


@pytest.mark.parametrize(
    ("cosines", "progress", "fields"),
    [
        ([0.9, 0.8, 0.1, 0.0], 0.0, {}),  # too early
        ([0.9, 0.8, 0.1, 0.0], 0.5, {"gap": 1.0}),  # not far enough from each other
        ([0.5] * 4, 0.5, {"gap": 0.0}),
    ],
)
def test_where_nothing_is_told_all_count_alike(cosines, progress, fields):
    (rule,) = reweighters.build({"use": "small_loss", **fields})
    given = pairs(cosines) | {"progress": torch.tensor(progress)}
    assert torch.equal(rule.forward(**given), torch.ones(4, dtype=torch.float64))


def test_towers_of_other_spaces_are_refused():
    (rule,) = reweighters.build({"use": "small_loss"})
    with pytest.raises(UserError, match="have 3 and 4 features: name a `teacher:` whose towers share a space"):
        rule.forward(F.normalize(torch.ones(2, 3)), F.normalize(torch.ones(2, 4)), torch.tensor(0.5))
