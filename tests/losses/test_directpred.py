"""directpred: the card's worked numbers, what the predictor is, and what its state does."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import Facts, build
from tests import bounds
from tests.losses.cards import F3, random_pairs

U4 = [(1, 0), (0.6, 0.8), (0, 1), (0.8, 0.6)]


def points(rows):
    return torch.tensor(rows, dtype=torch.float64)


def ready(D=2, **fields):
    objective = build("directpred", fields)
    objective.setup(Facts(width=D))
    return objective


def features(pairs, teacher=None):
    image, text = (points(side).requires_grad_() for side in pairs)
    ema_image, ema_text = map(points, teacher or pairs)
    weights = torch.ones(len(image), dtype=torch.float64)
    return {"image": image, "text": text, "ema_image": ema_image, "ema_text": ema_text, "weights": weights}


def correlation(rows):
    x = points(rows)
    return x.T @ x / len(x)


def near(found, expected):
    torch.testing.assert_close(found, points(expected), rtol=0, atol=bounds.printed(6))


def test_worked_predictors():
    f = correlation(U4)
    near(f, [(0.5, 0.24), (0.24, 0.5)])
    near(ready(eps=0.1)._predictor(f), [(0.896374, 0.203626), (0.203626, 0.896374)])
    near(ready(eps=0.1, predictor="paper")._predictor(f), [(0.759067, 0.175165), (0.175165, 0.759067)])
    near(ready(eps=0.1, predictor="copy")._predictor(f), [(0.6, 0.24), (0.24, 0.6)])


def test_worked_loss():
    objective = ready(rho=0.0, eps=0.1)
    assert objective(**features(F3)).item() == pytest.approx(0.320028, abs=bounds.printed(6))
    of_image, of_text = map(objective._predictor, objective._found)
    near(of_image, [(0.912548, 0.140589), (0.140589, 0.994558)])
    near(of_text, [(0.654572, 0.059120), (0.059120, 1.092153)])


def test_the_correlation_runs():
    objective = ready(rho=0.3)
    objective.correlations.copy_(torch.eye(2).expand(2, 2, 2))
    objective(**features(F3))
    before = objective.correlations.clone()
    assert torch.equal(before, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))  # forward changes nothing
    objective.after_step()
    near(objective.correlations[0], [(0.617333, 0.112), (0.112, 0.682667)])
    first, frozen = ready(rho=0.3), ready(rho=1.0)
    for each in (first, frozen):  # the first batch begins it, whatever rho
        each(**features(F3))
        each.after_step()
        torch.testing.assert_close(each.correlations[0], correlation(F3[0]))
    frozen(**features((U4, U4)))
    frozen.after_step()
    torch.testing.assert_close(frozen.correlations[0], correlation(F3[0]))


@pytest.mark.parametrize("predictor", ["relative", "paper", "copy"])
def test_the_predictor_shares_its_axes_with_the_correlation(predictor):
    f = correlation(random_pairs(40)[0])
    w = ready(8, predictor=predictor, eps=0.05)._predictor(f)
    torch.testing.assert_close(w, w.T)
    torch.testing.assert_close(w @ f, f @ w)
    values = torch.linalg.eigvalsh(w)
    assert values.min() > 0
    if predictor == "relative":
        assert values.min() >= 0.05 - 1e-12
        assert values.max() == pytest.approx(1.05)


def test_no_direction_dies():
    f = points([(1, 0, 0), (0, 1e-12, 0), (0, 0, 0)])
    assert torch.linalg.eigvalsh(ready(3, eps=0.0)._predictor(f)).min() >= 1e-4 - 1e-15


def test_an_even_correlation_is_the_plain_cosine_loss():
    u = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    given = features((u, u), teacher=(U4, U4))
    plain = (1 - F.cosine_similarity(given["image"], given["ema_text"])).mean()
    assert ready()(**given).item() == pytest.approx(2 * plain.item(), rel=1e-12)


def test_scaled_features_change_nothing():
    pairs = random_pairs(9)
    longer = tuple((3 * points(side)).tolist() for side in pairs)
    assert ready(8)(**features(pairs)).item() == pytest.approx(ready(8)(**features(longer)).item(), rel=1e-12)


def test_a_rotation_of_all_changes_nothing():
    q = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    pairs = random_pairs(9)
    turned = tuple((points(side) @ q).tolist() for side in pairs)
    one, two = ready(8), ready(8)
    assert one(**features(pairs)).item() == pytest.approx(two(**features(turned)).item(), rel=1e-12)
    torch.testing.assert_close(two._predictor(two._found[0]), q.T @ one._predictor(one._found[0]) @ q)


def test_gradients_pass_through_the_predictor_and_stop_there():
    given = {name: x.detach().requires_grad_() for name, x in features(random_pairs(9)).items()}
    objective = ready(8)
    objective(**given).backward()
    assert given["ema_image"].grad is None
    assert given["ema_text"].grad is None
    w = objective._predictor(objective._found[0])
    image = given["image"].detach().requires_grad_()
    (1 - F.cosine_similarity(image @ w, given["ema_text"].detach())).mean().backward()
    torch.testing.assert_close(given["image"].grad, image.grad)


def test_features_that_are_not_numbers_give_a_loss_that_is_none_and_no_error():
    given = features(random_pairs(9))
    given["image"] = given["image"].detach().index_fill(0, torch.tensor([0]), torch.nan)
    assert ready(8)(**given).isnan()
