"""pixpro: the card's worked numbers, and what boxes, mirrors and disjoint crops do."""

import pytest
import torch

from mmclr.losses import Facts, build
from mmclr.losses.views.pixpro import _centres, _close
from tests import bounds

X1 = [(1, 0), (0.6, 0.8), (0, 1), (0.8, -0.6)]
T2 = [(0.8, 0.6), (1, 0), (0, 1), (0.6, 0.8)]
BOX1, BOX2, FAR = (0, 0, 0.8, 0.8), (0.2, 0, 1, 0.8), (0.9, 0.9, 1, 1)
PLAIN = {"hidden": 0, "transform": False}


def points(rows):
    return torch.tensor(rows, dtype=torch.float64)


def ready(D=2, **fields):
    torch.manual_seed(0)
    objective = build("pixpro", fields)
    objective.setup(Facts(width=D))
    return objective.double()


def near(box1, box2, limit=0.7):
    boxes = points([box1, box2])[None]
    return _close(*_centres(boxes, 4), 0, 1, limit)[0].tolist()


def one_way(x, goal, mask, **fields):
    objective = ready(**PLAIN, **fields)
    x = torch.nn.functional.normalize(points(x), dim=-1)
    x = objective._propagate(x[None]) if objective.loss == "propagate" else x[None]
    return objective._agree(x, points(goal)[None], points(mask)[None]).item()


def features(views, teacher, boxes, shares=(1.0,)):
    return {
        "view_tokens": points(views).requires_grad_(),
        "ema_view_tokens": points(teacher).requires_grad_(),
        "view_boxes": points(boxes),
        "shares": points(shares),
    }


MASK = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_worked_masks():
    assert near(BOX1, BOX2) == MASK
    mirrored = (0.8, 0, 0, 0.8)
    assert near(mirrored, BOX1) == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert near(BOX1, BOX1) == torch.eye(4).tolist()  # neighbours are 1 / sqrt 2 of a diagonal away
    assert near(BOX1, FAR) == torch.zeros(4, 4).tolist()
    assert sum(map(sum, near(BOX1, BOX1, 0.8))) == 12


def test_the_larger_bin_decides():
    whole, corner = (0, 0, 1, 1), (0, 0, 0.2, 0.2)
    assert near(whole, corner) == [[1, 1, 1, 1], [0] * 4, [0] * 4, [0] * 4]  # all within 0.7 of the whole's diagonal
    assert near(corner, whole) == [[1, 0, 0, 0]] * 4


def test_worked_numbers():
    flipped = points(MASK).T.tolist()
    assert one_way(X1, T2, MASK) == pytest.approx(-1.031315, abs=bounds.printed(6))
    assert one_way(X1, T2, MASK, loss="plain") == pytest.approx(-0.920000, abs=bounds.printed(6))
    assert one_way(T2, X1, flipped) == pytest.approx(-1.103546, abs=bounds.printed(6))
    assert one_way(X1, T2, MASK, loss="contrast") == pytest.approx(1.367265, abs=bounds.printed(6))
    smoothed = [(0.998460, -0.055470), (0.554700, 0.832050), (0.246154, 0.969231), (0.923077, -0.384615)]
    torch.testing.assert_close(ready(**PLAIN)._propagate(points(X1)), points(smoothed), rtol=0, atol=bounds.printed(6))


def test_the_loss_is_the_sum_of_both_directions():
    """The student has X1 in the first view and T2 in the second, and so has the teacher."""
    given = features([[X1, T2]], [[X1, T2]], [[BOX1, BOX2]])
    value = ready(**PLAIN)(**given)
    assert value.item() == pytest.approx(-2.134861, abs=2 * bounds.printed(6))
    both = features([[X1, T2], [X1, T2]], [[X1, T2]] * 2, [[BOX1, BOX2], [BOX1, FAR]], (0.25, 0.75))
    assert ready(**PLAIN)(**both).item() == pytest.approx(
        value.item() / 4, rel=bounds.bound(terms=16)
    )  # the second has no near pair
    contrast = ready(loss="contrast", **PLAIN)(**given).item()
    other = one_way(T2, X1, points(MASK).T.tolist(), loss="contrast")
    assert contrast == pytest.approx((1.367265 + other) / 2, abs=bounds.printed(6))


def test_one_crop_twice_is_the_minimum():
    tokens = torch.eye(4).tolist()  # unlike each other, so that smoothing leaves them
    value = ready(4, **PLAIN)(**features([[tokens] * 2], [[tokens] * 2], [[BOX1, BOX1]]))
    assert value.item() == pytest.approx(-4, abs=bounds.bound(terms=512))
    plain = ready(**PLAIN, loss="plain")(**features([[X1] * 2], [[X1] * 2], [[BOX1, BOX1]]))
    assert plain.item() == pytest.approx(-4, abs=bounds.bound(terms=512))


def test_disjoint_crops_teach_nothing():
    for loss in ("propagate", "plain", "contrast"):
        given = features([[X1, T2]], [[X1, T2]], [[BOX1, FAR]])
        value = ready(loss=loss, **PLAIN)(**given)
        value.backward()
        assert value.item() == 0
        assert given["view_tokens"].grad.abs().sum() == 0


def test_only_smoothing_feels_tokens_without_a_near_one():
    """The lower right patch of the first view lies outside of the second."""
    boxes = [[(0, 0, 1, 1), (0, 0, 0.4, 0.4)]]
    changed = [*X1[:3], (0.0, -1.0)]
    for loss in ("propagate", "plain"):
        values = [ready(loss=loss, **PLAIN)(**features([[x, T2]], [[X1, T2]], boxes)).item() for x in (X1, changed)]
        assert (values[0] == pytest.approx(values[1], rel=1e-12)) == (loss == "plain")


def test_a_longer_teacher_token_changes_nothing_and_gets_no_gradient():
    longer = [tuple(5 * v for v in T2[0]), *T2[1:]]
    objective = ready(hidden=3, out=4)
    given = features([[X1, T2]], [[X1, T2]], [[BOX1, BOX2]])
    objective(**given).backward()
    assert given["ema_view_tokens"].grad is None
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert all(p.grad is not None for p in (*objective.head.parameters(), *objective.smoothed.parameters()))
    values = [ready(**PLAIN)(**features([[X1, T2]], [[X1, t]], [[BOX1, BOX2]])).item() for t in (T2, longer)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_three_views_are_the_mean_over_their_pairs():
    tokens, boxes = [X1, T2, X1], [BOX1, BOX2, BOX1]
    pair = lambda a, b: ready(**PLAIN)(  # noqa: E731
        **features([[tokens[a], tokens[b]]], [[tokens[a], tokens[b]]], [[boxes[a], boxes[b]]])
    ).item()
    value = ready(**PLAIN)(**features([tokens], [tokens], [boxes])).item()
    assert value == pytest.approx((pair(0, 1) + pair(0, 2) + pair(1, 2)) / 3, rel=1e-9)


def test_one_view_is_refused():
    with pytest.raises(Exception, match="data.views: 2"):
        ready(**PLAIN)(**features([[X1]], [[X1]], [[BOX1]]))
