"""caption against the card's numbers, open_clip's loss, and torch's cross-entropy over whole logits."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import build
from mmclr.losses.algebra import token_entropy
from tests import bounds
from tests.losses.cards import batch

LOGITS = [[[2, 0, 1, 0], [0, 1, 0, 3], [1, 1, 1, 1]], [[0, 2, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]]
LABELS = [[2, 3, 0], [1, 0, 0]]  # 0 pads


def features(logits, labels, pad=0):
    """Logits as dot products of states with unit vectors."""
    logits, labels = torch.as_tensor(logits, dtype=torch.float64), torch.as_tensor(labels)
    valid = (labels != pad).double()
    return {
        "caption_states": logits[:, None].requires_grad_(),
        "caption_words": torch.eye(logits.shape[-1], dtype=torch.float64).requires_grad_(),
        "caption_targets": labels.masked_fill(labels == pad, -100)[:, None],
        "caption_shares": (valid / valid.sum())[:, None],
    }


def random_case(b=5, L=7, N=19, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, N, (b, L), generator=g)
    lengths = torch.randint(1, L + 1, (b,), generator=g)
    labels[torch.arange(L) >= lengths[:, None]] = 0
    return torch.randn(b, L, N, generator=g, dtype=torch.float64), labels


def test_the_cards_numbers():
    caption = build("caption", {})(**features(LOGITS, LABELS))
    assert caption.item() == pytest.approx(0.681854, abs=bounds.printed(6))
    pairs = ([(1, 0), (0, 1), (0.6, 0.8)], [(0.8, 0.6), (-0.6, 0.8), (1, 0)])
    clip = build("clip", {})
    given = batch(pairs, tau=0.5)
    contrastive = clip(**{name: given[name] for name in clip.needs})
    assert contrastive.item() == pytest.approx(0.926897, abs=bounds.printed(6))
    assert (contrastive + 2 * caption).item() == pytest.approx(2.290605, abs=bounds.printed(6))


def test_equals_open_clips_loss_with_pads():
    from open_clip.loss import CoCaLoss

    logits, labels = random_case()
    g = torch.Generator().manual_seed(1)
    image, text = (F.normalize(torch.randn(5, 4, generator=g, dtype=torch.float64), dim=1) for _ in "ab")
    theirs_logits = logits.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, theirs = CoCaLoss(2.0, 1.0, pad_id=0)(image, text, theirs_logits, labels, torch.tensor(3.0).double())
    ours = features(logits, labels)
    value = 2 * build("caption", {})(**ours)
    torch.testing.assert_close(value, theirs, **bounds.near())
    (expected,) = torch.autograd.grad(theirs, theirs_logits)
    (found,) = torch.autograd.grad(value, ours["caption_states"])
    torch.testing.assert_close(found[:, 0], expected, **bounds.near())
    assert found[:, 0][labels == 0].abs().max() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("chunk_bytes", [1, 3000, 1 << 20])
def test_chunks_equal_whole_logits(smoothing, chunk_bytes):
    g = torch.Generator().manual_seed(0)
    states, words = (torch.randn(n, 6, generator=g, dtype=torch.float64).requires_grad_() for n in (37, 23))
    targets, weights = torch.randint(0, 23, (37,), generator=g), torch.rand(37, generator=g, dtype=torch.float64)
    plain = F.cross_entropy(states @ words.T, targets, reduction="none", label_smoothing=smoothing) @ weights
    ours = token_entropy(states, words, targets, weights, smoothing=smoothing, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(ours, plain, **bounds.near())
    for a, b in zip(torch.autograd.grad(3 * ours, (states, words)), torch.autograd.grad(3 * plain, (states, words))):
        torch.testing.assert_close(a, b, **bounds.near())


def test_a_second_backward_gives_the_same_gradient():
    given = features(*random_case())
    value = build("caption", {})(**given)
    leaves = (given["caption_states"], given["caption_words"])
    first = [g.clone() for g in torch.autograd.grad(value, leaves, retain_graph=True)]
    assert all(map(torch.equal, first, torch.autograd.grad(value, leaves)))


def test_large_logits_do_not_overflow():
    logits, labels = random_case()
    given = features(1e4 * logits, labels)
    value = build("caption", {})(**{name: x.float() if x.is_floating_point() else x for name, x in given.items()})
    expected = F.cross_entropy(1e4 * logits.transpose(1, 2), labels, ignore_index=0)
    assert value.item() == pytest.approx(expected.item(), rel=bounds.bound(terms=512))


def test_a_batch_without_any_weight_is_zero():
    given = features(*random_case())
    value = build("caption", {})(**{**given, "caption_shares": torch.zeros(5, 1, 7, dtype=torch.float64)})
    assert value.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, (given["caption_states"], given["caption_words"])))
