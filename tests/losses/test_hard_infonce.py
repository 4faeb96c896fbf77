"""hard_infonce and simple_contrast: worked numbers and the limits of the temperature study."""

import pytest
import torch

from mmclr.config import ConfigError
from mmclr.losses import build
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs


def test_worked_numbers():
    """Hard k=1: image-to-text 0.594580, text-to-image 0.725167; the simple loss -0.373333, the same both ways."""
    assert evaluate("hard_infonce", F3, 0.5, {"k": 1}).item() == pytest.approx(
        (0.594580 + 0.725167) / 2, abs=bounds.printed(6)
    )
    assert evaluate("simple_contrast", F3).item() == pytest.approx(-0.373333, abs=bounds.printed(6))


@pytest.mark.parametrize("fields", [{"k": 100}, {"alpha": 1.0}])
def test_with_all_negatives_it_is_infonce(fields):
    pairs = random_pairs(20)
    value = evaluate("hard_infonce", pairs, 0.1, fields)
    assert value.item() == pytest.approx(evaluate("clip", pairs, 0.1).item(), rel=1e-12)


def test_it_grows_with_k_up_to_infonce():
    pairs = random_pairs(20)
    values = [evaluate("hard_infonce", pairs, 0.1, {"k": k}).item() for k in range(1, 20)]
    assert values == sorted(values)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_gradients_equal_the_dense_form_and_vanish_outside_the_chosen(k):
    features = batch(random_pairs(30), 0.1)
    ours = evaluate("hard_infonce", random_pairs(30), 0.1, {"k": k}, **features)
    s = features["image"] @ features["text"].T / 0.1
    each = 0
    for matrix in (s, s.T):
        hardest = matrix.masked_fill(torch.eye(30).bool(), -torch.inf).topk(k, 1).values
        each = each + torch.cat([matrix.diagonal()[:, None], hardest], 1).logsumexp(1) - matrix.diagonal()
    dense = each.mean() / 2
    leaves = (features["image"], features["text"])
    torch.testing.assert_close(ours, dense, **bounds.near())
    for mine, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(dense, leaves)):
        torch.testing.assert_close(mine, other, **bounds.near())


def test_duplicates_are_left_out_before_the_hardest_are_chosen():
    image, text = random_pairs(10)
    text[1] = text[0]  # the caption of 0 again: the hardest negative of image 0, and a false one
    ids = torch.tensor([0, 0, *range(2, 10)])
    masked = evaluate("hard_infonce", (image, text), 0.1, {"k": 1}, caption_id=ids)
    s = torch.tensor(image, dtype=torch.float64) @ torch.tensor(text, dtype=torch.float64).T / 0.1
    off = s.masked_fill(ids[:, None] == ids, -torch.inf)
    each = [torch.nn.functional.softplus(off.amax(d) - s.diagonal()) for d in (1, 0)]
    assert masked.item() == pytest.approx((sum(each) / 2).mean().item(), rel=1e-12)


def test_the_simple_losses_gradient_is_constant():
    """-1/B on the diagonal and push / (B (B-1)) off it, whatever the similarities."""
    features = batch(random_pairs(6))
    value = evaluate("simple_contrast", random_pairs(6), fields={"push": 0.5}, **features)
    g = torch.full((6, 6), 0.5 / 30, dtype=torch.float64).fill_diagonal_(-1 / 6)
    dx, dy = torch.autograd.grad(value, (features["image"], features["text"]))
    torch.testing.assert_close(dx, g @ features["text"])
    torch.testing.assert_close(dy, g.T @ features["image"])


def test_infonce_at_extreme_temperatures():
    """tau L tends to the hinge on the hardest negative for tau to 0, to mean minus positive for tau to infinity."""
    cold = 0.02 * evaluate("clip", F3, 0.02, {"image_weight": 1.0})
    assert cold.item() == pytest.approx((0 + 0.160007 + 0.042539) / 3, abs=bounds.printed(6))
    warm = 1e4 * (evaluate("clip", F3, 1e4, {"image_weight": 1.0}) - torch.tensor(3.0, dtype=torch.float64).log())
    assert warm.item() == pytest.approx((-0.626656 - 0.013332 - 0.106665) / 3, abs=bounds.printed(6))


def test_a_share_above_one_is_refused():
    with pytest.raises(ConfigError, match="alpha"):
        build("hard_infonce", {"alpha": 1.5})
