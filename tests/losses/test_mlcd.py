"""mlcd: the card's numbers, the draw of negatives, how classes move, and that ranks share them."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import parallel
from mmclr.config import ConfigError
from mmclr.losses import Facts, build
from tests import bounds
from tests.ranks import run

CLASSES = torch.tensor([(1, 0), (0, 1), (-1, 0), (0.6, 0.8)], dtype=torch.float64)
IMAGES = torch.tensor([(0.8, 0.6), (0, 1)], dtype=torch.float64)
LABELS = torch.tensor([[0, 3], [1, 3]])


def ready(fields, classes=CLASSES):
    torch.manual_seed(0)
    objective = build("mlcd", {"scale": 1.0, "share": 1.0, **fields})
    objective.setup(Facts(width=classes.shape[1], clusters=len(classes)))
    objective.classes.write(parallel.own_rows(torch.arange(len(classes))), parallel.own_rows(_whole(classes)))
    return objective


def _whole(classes):
    """Rows of the table: classes that have not moved yet."""
    return torch.cat([classes, torch.zeros(len(classes), 2 * classes.shape[1] + 1, dtype=classes.dtype)], 1).float()


def call(objective, image=IMAGES, labels=LABELS, progress=0.0):
    x = image.clone().requires_grad_()
    ones = torch.ones(len(x), dtype=x.dtype)
    return objective(image=x, clusters=labels, weights=ones, progress=torch.tensor(progress)), x


def dense(s, right):
    """Positive and negative terms of each row from all scores [b, k]."""
    return (
        torch.where(right, -s, -torch.inf).exp().sum(1).log1p(),
        torch.where(right, -torch.inf, s).exp().sum(1).log1p(),
    )


def random(k=30, b=12, C=4, D=8):
    classes, image = (torch.randn(n, D, dtype=torch.float64) for n in (k, b))
    return F.normalize(classes, dim=1).float().double(), F.normalize(image, dim=1), torch.randint(0, k, (b, C))


def rights(labels, k):
    return torch.zeros(len(labels), k + 1).scatter(1, labels.masked_fill(labels < 0, k), 1.0)[:, :k].bool()


@pytest.mark.parametrize(
    ("fields", "value"), [({}, 1.743338), ({"joint": True}, 1.015019), ({"scale": 16.0}, 5.349343)]
)
def test_the_numbers_of_the_card(fields, value):
    assert call(ready(fields))[0].item() == pytest.approx(value, abs=bounds.printed(6))


def test_the_terms_of_the_card():
    s = IMAGES @ CLASSES.T
    of_right, of_wrong = dense(s, rights(LABELS, 4))
    assert of_right.tolist() == pytest.approx([0.605529, 0.597301], abs=bounds.printed(6))
    assert of_wrong.tolist() == pytest.approx([1.185233, 1.098612], abs=bounds.printed(6))


@pytest.mark.parametrize("joint", [False, True])
def test_gradients_equal_the_dense_form(joint):
    """With a margin; labels that come twice count once, -1 is none."""
    classes, image, labels = random()
    labels[:4, 1] = labels[:4, 0]
    labels[5] = -1
    labels[6, 2:] = -1
    objective = ready({"scale": 5.0, "margin": 0.1, "joint": joint}, classes)
    value, x = call(objective, image, labels)
    w = classes.clone().requires_grad_()
    s, right = 5 * x @ F.normalize(w, dim=1).T, rights(labels, 30)
    a = torch.where(right, (0.5 - s).exp(), 0.0).sum(1)
    b = torch.where(right, 0.0, s.exp()).sum(1)
    expected = ((a * b).log1p() if joint else a.log1p() + b.log1p()).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-7)
    of_x, of_w = torch.autograd.grad(expected, (x, w))
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], of_x, rtol=bounds.bound(terms=16), atol=1e-9)
    rows, sums, _ = objective.classes.sums(*objective.found[:2])
    torch.testing.assert_close(
        torch.zeros_like(of_w).index_copy(0, rows, sums), of_w, rtol=bounds.bound(terms=16), atol=1e-9
    )


def test_one_positive_among_all_classes_is_cross_entropy():
    classes, image, labels = random(C=1)
    value, _ = call(ready({"scale": 5.0, "joint": True}, classes), image, labels)
    assert value.item() == pytest.approx(F.cross_entropy(5 * image @ classes.T, labels[:, 0]).item(), rel=1e-7)


def test_positives_and_negatives_do_not_see_each_other_and_joint_is_less():
    classes, image, labels = random()
    apart, joint = (call(ready({"joint": j}, classes), image, labels)[0] for j in (False, True))
    assert joint < apart
    s, right = image @ classes.T, rights(labels, 30)
    shifted = [t.mean() for t in dense(s + 1, right)]
    assert sum(shifted).item() != pytest.approx(apart.item(), rel=1e-3)


def test_a_share_of_the_classes_is_drawn_anew(monkeypatch):
    """The mean over draws of the negatives' sum is that share of the whole."""
    classes, image, labels = random()
    objective = ready({"share": 0.3, "scale": 3.0}, classes)
    seen, sums = [], []
    plain = objective._loss
    monkeypatch.setattr(
        objective, "_loss", lambda right, wrong: sums.append(wrong.detach().exp()) or plain(right, wrong)
    )
    for step in range(400):
        torch.manual_seed(step)
        call(objective, image, labels)
        drawn = objective.found[0][:9]
        assert len(set(drawn.tolist())) == 9
        seen.append(tuple(sorted(drawn.tolist())))
    assert len(set(seen)) > 300
    whole = torch.where(rights(labels, 30), 0.0, (3 * image @ classes.T).exp()).sum(1)
    torch.testing.assert_close(torch.stack(sums).mean(0), 0.3 * whole, rtol=0.05, atol=0)


def test_classes_that_were_looked_at_move_by_adam():
    classes, image, labels = random(k=8, b=3, C=1)
    objective = ready({"share": 1.0, "lr": 0.01}, classes)
    plain = classes.float().clone().requires_grad_()
    optimizer = torch.optim.Adam([plain], 0.01)
    for step in range(3):
        torch.manual_seed(step)
        call(objective, image, labels)
        objective.after_step()
        s = image.float() @ F.normalize(plain, dim=1).T
        optimizer.zero_grad()
        sum(term.mean() for term in dense(s, rights(labels, 8))).backward()
        optimizer.step()
    torch.testing.assert_close(
        objective.classes.read(torch.arange(8))[:, :8], plain.detach(), rtol=0, atol=bounds.bound(terms=2048)
    )


def test_others_stay_and_the_rate_falls():
    classes, image, labels = random(k=40, b=2, C=1)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        objective = ready({"share": 0.1, "lr": 0.01}, classes)
        call(objective, image, labels, progress)
        objective.after_step()
        change = (objective.classes.read(torch.arange(40))[:, :8] - classes.float()).norm(dim=1)
        looked = set(objective.found[0].tolist())
        assert {n for n in range(40) if change[n] > 0} <= looked
        moved.append(change.max().item())
    assert moved[0] == pytest.approx(2 * moved[1], rel=1e-4)
    assert moved[2] == pytest.approx(0, abs=1e-9)


def test_without_labels_it_says_how_to_make_them():
    with pytest.raises(ConfigError, match=r"mlcd needs data.clusters, labels that `mmclr data cluster` writes"):
        build("mlcd", {}).setup(Facts(width=4))


def drawn_by_ranks(k):
    torch.manual_seed(3)
    objective = build("mlcd", {})
    objective.setup(Facts(width=4, clusters=k))
    return len(objective.classes.rows), objective.state_dict()["classes.rows"].clone()


@pytest.mark.dist
def test_ranks_share_the_classes_and_begin_alike():
    _, whole = drawn_by_ranks(11)
    assert whole[:, :4].std() > 0.5
    (kept, rows), *_ = run(4, drawn_by_ranks, 11)
    assert kept == 3
    torch.testing.assert_close(rows, whole)


def test_one_positive_and_one_negative_are_softplus():
    """And a shift of all scores changes the loss, but not that of the baseline, which compares."""
    s = torch.tensor([[0.3, -0.9], [0.7, 0.2]], dtype=torch.float64)
    of_right, of_wrong = dense(s, torch.tensor([[True, False]] * 2))
    torch.testing.assert_close(of_right, F.softplus(-s[:, 0]))
    torch.testing.assert_close(of_wrong, F.softplus(s[:, 1]))
    classes, labels = torch.eye(2, dtype=torch.float64), torch.tensor([[0], [0]])
    image = F.normalize(torch.tensor([[0.6, 0.8], [1.0, 0.2]], dtype=torch.float64), dim=1)
    s = image @ classes.T
    apart, joint = (call(ready({"joint": j}, classes), image, labels)[0].item() for j in (False, True))
    assert apart == pytest.approx((F.softplus(-s[:, 0]) + F.softplus(s[:, 1])).mean().item(), rel=1e-7)
    assert joint == pytest.approx(F.softplus(s[:, 1] - s[:, 0]).mean().item(), rel=1e-7)
    objective = ready({"joint": True})
    right, wrong = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(objective._loss(right - 1, wrong + 1), objective._loss(right, wrong))
    objective = ready({})
    assert not torch.allclose(objective._loss(right - 1, wrong + 1), objective._loss(right, wrong))
