"""wscol: the card's worked numbers, and what its gate, its labels and its prototypes do."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import Facts, build
from tests import bounds
from tests.losses.cards import random_pairs

T = [(1, 0), (0, 1), (-0.6, 0.8)]
S = [(0.8, 0.6), (0.6, 0.8), (0, 1)]
V = [(0.8, 0.6), (0, 1), (-0.6, 0.8)]
Z = [(1, 0), (0.6, 0.8), (0, 1), (0.8, -0.6)]
LABELS = torch.tensor([0, 0, 1, 1])


def points(rows):
    return torch.tensor(rows, dtype=torch.float64)


def ready(D=2, **fields):
    torch.manual_seed(0)
    objective = build("wscol", {"hidden": 0, "prototypes": 2, **fields})
    objective.setup(Facts(width=D))
    return objective.double()


def features(views, text, teacher, scale=2.0):
    return {
        "views": points(views)[:, None].requires_grad_(),
        "text": points(text).requires_grad_(),
        "scale": torch.tensor(scale, dtype=torch.float64),
        "ema_image": points(teacher),
        "weights": torch.ones(len(text), dtype=torch.float64),
    }


def contrast(labels, left_out=None, **fields):
    nobody = torch.zeros(len(labels), dtype=torch.bool)
    weights = torch.ones(len(labels), dtype=torch.float64)
    objective = ready(**{"prototypes": 4, **fields})
    return objective._contrast(points(Z)[:, None], labels, nobody if left_out is None else left_out, weights).item()


def test_worked_divergence():
    value = ready(con_weight=0.0, teacher_tau=0.5)(**features(S, V, T))
    assert value.item() == pytest.approx(0.140777, abs=bounds.printed(6))


def test_a_view_that_is_the_teachers_teaches_nothing():
    pairs = random_pairs(9)
    given = features(pairs[0], pairs[1], pairs[0], scale=25.0)
    value = ready(8, con_weight=0.0)(**given)
    assert value.item() == pytest.approx(0, abs=bounds.bound(torch.float64, terms=512, size=100))
    value.backward()
    assert given["views"].grad.abs().max() < bounds.bound(torch.float64, terms=512, size=100)
    assert given["text"].grad.abs().max() < bounds.bound(torch.float64, terms=512, size=100)


def test_the_divergence_is_that_of_the_whole_matrices():
    image, text, teacher = *random_pairs(9), random_pairs(9, seed=1)[0]
    p = (points(teacher) @ points(text).T / 0.04).softmax(1)
    logs = (7 * points(image) @ points(text).T).log_softmax(1)
    plain = (p * (p.log() - logs)).sum(1).mean()
    assert ready(8, con_weight=0.0)(**features(image, text, teacher, 7.0)).item() == pytest.approx(plain.item())


def test_several_views_count_alike():
    image, text, teacher = *random_pairs(9), random_pairs(9, seed=1)[0]
    given = features(image, text, teacher)
    other = features(random_pairs(9, seed=2)[0], text, teacher)
    both = given | {"views": torch.cat([given["views"], other["views"]], 1)}
    values = [ready(8, con_weight=0.0)(**each).item() for each in (given, other, both)]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-12)


def test_worked_contrast():
    assert contrast(LABELS, self_positive=True, tau=0.07) == pytest.approx(3.600129, abs=bounds.printed(6))
    assert contrast(LABELS, self_positive=True, tau=0.5) == pytest.approx(0.856598, abs=bounds.printed(6))
    assert contrast(LABELS, tau=0.5) == pytest.approx(2.030190, abs=bounds.printed(6))


def test_the_published_contrast_of_labels_that_all_differ():
    logits = points(Z) @ points(Z).T / 0.5
    plain = (logits.logsumexp(1) - 2).mean() / 2
    assert contrast(torch.arange(4), self_positive=True, tau=0.5) == pytest.approx(plain.item(), rel=1e-12)
    assert contrast(torch.arange(4), tau=0.5) == 0  # nobody has a positive


def test_what_is_left_out_gets_no_gradient_and_changes_nothing():
    left_out = torch.tensor([False, False, False, False, True, True])
    rows, weights = points([*Z, (-1, 0), (0, -1)])[:, None].requires_grad_(), torch.ones(6, dtype=torch.float64)
    value = ready(prototypes=4)._contrast(rows, torch.tensor([0, 0, 1, 1, 4, 4]), left_out, weights)
    assert value.item() == pytest.approx(contrast(LABELS), rel=1e-12)
    value.backward()
    assert rows.grad[4:].abs().sum() == 0
    assert rows.grad[:4].abs().sum() > 0


def with_prototypes(**fields):
    objective = ready(**fields)
    objective.means.copy_(points([(1, 0), (0, 1)]))
    objective.founded.fill_(2)
    return objective


def test_worked_prototypes():
    objective = with_prototypes()
    teacher = [(0.8, 0.6), (0.6, 0.8), (0, 1), (1, 0)]
    nearest, confidence = objective._nearest(points(teacher))
    assert nearest.tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(
        confidence, points([0.880797, 0.880797, 0.999955, 0.999955]), rtol=0, atol=bounds.printed(6)
    )
    objective(**features(Z, Z, teacher))
    assert objective.means.tolist() == [[1, 0], [0, 1]]  # forward changes nothing
    objective.after_step()
    torch.testing.assert_close(objective.means, points([(0.99, 0.03), (0.03, 0.99)]))


def test_a_prototype_that_nothing_is_next_to_stays():
    objective = with_prototypes()
    objective(**features(Z, Z, [(1, 0), (0.8, 0.6), (0.8, 0.6), (1, 0)]))
    objective.after_step()
    assert objective.means[1].tolist() == [0, 1]
    assert objective.means[0].tolist() != [1, 0]


def test_samples_found_prototypes_over_several_steps():
    objective = ready(prototypes=32)
    teacher = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = F.normalize(teacher, dim=1)
    given = features(*[teacher.tolist()] * 3)
    given["weights"][0] = 0  # a blank row founds nothing
    for step in range(1, 20):
        objective(**given)
        objective.after_step()
        assert int(objective.founded) == min(32, 2 * step)
    torch.testing.assert_close(objective.means[1], teacher[2], rtol=0.3, atol=0.3)


def test_labels_by_confidence():
    """delta 0: all have one. Above 1: none has, and where the teacher is uncertain nothing is contrasted."""
    given = features(Z, Z, Z)
    kd = with_prototypes(con_weight=0.0)(**given).item()
    all_labelled = with_prototypes(delta=0.0, eta=0.0)(**given).item()
    assert all_labelled - kd == pytest.approx(contrast(torch.tensor([0, 1, 1, 0])) / 2, rel=1e-9)
    assert with_prototypes(delta=1.1, eta=0.0)(**given).item() == pytest.approx(kd, rel=1e-12)
    one_class = with_prototypes(delta=1.1, eta=1.0)(**given).item()
    assert one_class - kd == pytest.approx(contrast(torch.full((4,), 2), prototypes=2) / 2, rel=1e-9)
    assert ready(delta=1.1, eta=1.0)(**given).item() == pytest.approx(kd, rel=1e-12)  # no prototypes yet


def test_gradients_reach_the_view_its_caption_and_the_map_only():
    given = {name: x.requires_grad_() for name, x in features(Z, Z, S + S[:1]).items()}
    objective = with_prototypes(hidden=3, delta=0.0)
    objective(**given).backward()
    assert given["ema_image"].grad is None
    assert given["views"].grad.abs().sum() > 0
    assert given["text"].grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in objective.h.parameters())
