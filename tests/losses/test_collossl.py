"""collossl: the card's distances and loss, sources that samples lack, which is chosen, and the average of distances."""

import numpy as np
import pytest
import torch

from mmclr.errors import UserError
from mmclr.losses import Facts, build
from mmclr.losses.hard.collossl import choose, contrast, distances, mmd
from tests import bounds
from tests.losses.cards import batch, evaluate, random_pairs

U = [(1, 0), (0.6, 0.8), (0, 1)]
V = [[(0.8, 0.6), (0, 1), (-0.6, 0.8)], [(1, 0), (0.8, 0.6), (0, 1)]]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def made(sources=2, **fields):
    objective = build("collossl", fields)
    objective.setup(Facts.example(text_sources=sources))
    return objective


def given(b, sources=3, seed=0, tau=0.2):
    """Return random features in which samples lack some of the captions."""
    g = torch.Generator().manual_seed(seed)
    features = batch(random_pairs(b, seed=seed), tau, weights=torch.rand(b, generator=g, dtype=torch.float64))
    texts = torch.randn(b, sources, 8, generator=g, dtype=torch.float64)
    features["text_sources"] = torch.nn.functional.normalize(texts, dim=-1).requires_grad_()
    features["has_text"] = torch.rand(b, sources, generator=g) < 0.7
    features["scale"].requires_grad_()
    return features


def call(objective, features):
    return objective(**{name: features[name] for name in objective.needs})


def test_the_distances_of_the_card():
    x, y = double([[0], [1]]), double([[0], [2]])
    assert mmd(x, y).item() == pytest.approx(2.314728, abs=bounds.printed(6))
    assert mmd(y, x).item() == pytest.approx(mmd(x, y).item(), rel=1e-12)
    assert mmd(x, x).item() == 1e-4
    image, sources, has = double(U), double(V).transpose(0, 1), torch.ones(3, 2, dtype=torch.bool)
    for centre, expected in ((False, [1.842253, 0.749006]), (True, [2.217764, 1.747214])):
        assert distances(image, sources, has, centre).tolist() == pytest.approx(expected, abs=bounds.printed(6))


def test_the_loss_of_the_card():
    image, sources, has = double(U), double(V).transpose(0, 1), torch.ones(3, 2, dtype=torch.bool)
    sides = contrast(image, sources, has, 2.0, torch.tensor([False, True]), double([0.5, 1]))
    assert sides.image.mean().item() == pytest.approx(0.839910, abs=bounds.printed(6))
    alone = contrast(image, sources[:, :1], has[:, :1], 2.0, torch.tensor([True]), double([1]))
    assert alone.image.mean().item() == pytest.approx(0.796341, abs=bounds.printed(6))


def test_one_source_that_all_have_is_clip():
    features = given(9, sources=1)
    features["has_text"][:] = True
    pairs = (features["image"].tolist(), features["text_sources"][:, 0].tolist())
    value = call(made(1), features)
    expected = evaluate("clip", pairs, 0.2, weights=features["weights"])
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def by_hand(features, positives, cap=10.0):
    """The whole in numpy, a sample at a time."""
    u, sources, has, w = (features[n].detach().numpy() for n in ("image", "text_sources", "has_text", "weights"))
    scale, b, widths = features["scale"].item(), len(u), [1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 100]

    def kernel(x, y):
        squared = ((x[:, None] - y) ** 2).sum(-1)
        return sum(np.exp(-squared / 2 / s) for s in widths).mean()

    d = []
    for c in range(sources.shape[1]):
        x, y = (side[has[:, c]] - side[has[:, c]].mean(0) for side in (u, sources[:, c]))
        d.append(max(1e-4, kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)))
    near = 1 / np.array(d)
    near = np.minimum(near, cap * np.sort(near)[(len(d) - 1) // 2])
    chosen, pull = np.argsort(d, kind="stable")[:positives], near / near.max()
    e = np.exp(scale * np.einsum("id,jcd->ijc", u, sources))
    image = text = image_weight = text_weight = 0.0
    for i in range(b):
        right = [c for c in chosen if has[i, c]]
        wrong = sum(pull[c] * e[i, j, c] for c in range(len(d)) for j in range(b) if j != i and has[j, c])
        if right:
            positive = sum(e[i, i, c] for c in right)
            image, image_weight = image + w[i] * np.log(1 + wrong / positive), image_weight + w[i]
        for c in right:
            others = sum(e[j, i, c] for j in range(b) if j != i)
            text, text_weight = text + w[i] * np.log(1 + others / e[i, i, c]), text_weight + w[i]
    return (image / image_weight + text / text_weight) / 2


@pytest.mark.parametrize("positives", [1, 2])
def test_equal_to_the_sums_written_out(positives):
    features = given(13)
    value = call(made(3, positives=positives), features)
    assert value.item() == pytest.approx(by_hand(features, positives), rel=1e-10)


def test_what_a_sample_lacks_changes_nothing():
    """Value, gradients and distances, whatever stands in the place of a caption that is not there."""
    features = given(13)
    found = []
    for garbage in (0.3, 1e6, torch.nan):
        texts = torch.where(features["has_text"][..., None], features["text_sources"].detach(), garbage)
        changed = {**features, "text_sources": texts.requires_grad_()}
        objective = made(3, positives=2)
        value = call(objective, changed)
        objective.after_step()
        leaves = [changed[name] for name in ("image", "text_sources", "scale")]
        found.append([value.detach(), objective.d.clone(), *torch.autograd.grad(value, leaves)])
    assert not found[0][3][~features["has_text"]].any()
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others))


def test_a_source_of_another_distribution_is_not_chosen():
    """And what is only shuffled among samples is as near as before: distances compare distributions."""
    g = torch.Generator().manual_seed(1)
    image = torch.nn.functional.normalize(double([[1.0, 0, 0, 0]]) + 0.3 * torch.randn(40, 4, generator=g).double())
    near = torch.nn.functional.normalize(image + 0.1 * torch.randn(40, 4, generator=g).double())
    far = torch.nn.functional.normalize(torch.randn(40, 4, generator=g).double())
    d = distances(image, torch.stack([far, near], 1), torch.ones(40, 2, dtype=torch.bool))
    chosen, pull = choose(d, 1, 10.0)
    assert chosen.tolist() == [False, True]
    assert pull[0] < pull[1] == 1
    shuffled = distances(image, near.flip(0)[:, None], torch.ones(40, 1, dtype=torch.bool))
    torch.testing.assert_close(shuffled, d[1:], **bounds.near())


def test_choice_and_weights():
    inf = torch.inf
    chosen, pull = choose(double([0.5, 0.25, 0.25, inf]), 1, 10.0)
    assert chosen.tolist() == [False, True, False, False]  # the first of equals
    assert pull.tolist() == [0.5, 1, 1, 0]
    _, pull = choose(double([1e-4, 1.0, 2.0]), 1, 10.0)
    assert pull.tolist() == pytest.approx([1, 0.1, 0.05])  # of 10 times the median at most
    chosen, _ = choose(double([inf, 1.0]), 2, 10.0)
    assert chosen.tolist() == [False, True]
    assert not choose(double([inf, inf]), 1, 10.0)[0].any()


def test_distances_are_measured_now_and_then_and_averaged():
    objective, seen = made(3, every=2, momentum=0.75), []
    for seed in range(4):
        features = given(13, seed=seed)
        call(objective, features)
        objective.after_step()
        seen.append(objective.d.clone())
    first, third = (
        distances(*(given(13, seed=seed)[name] for name in ("image", "text_sources", "has_text"))) for seed in (0, 2)
    )
    torch.testing.assert_close(seen[0], first, **bounds.near())
    assert torch.equal(seen[1], seen[0])
    torch.testing.assert_close(seen[2], 0.75 * first + 0.25 * third, **bounds.near())


def test_a_source_that_comes_later_begins_with_its_own_distance():
    objective, features = made(3, every=1), given(13)
    features["has_text"][:, 2] = False
    call(objective, features)
    objective.after_step()
    assert objective.d[2] == torch.inf
    later = given(13, seed=1)
    call(objective, later)
    objective.after_step()
    expected = distances(later["image"], later["text_sources"], later["has_text"])[2]
    assert objective.d[2].item() == pytest.approx(expected.item(), rel=1e-12)


def test_nobody_with_a_caption_is_nothing():
    features = given(5)
    features["has_text"][:] = False
    value = call(made(3), features)
    assert value.item() == 0
    assert not torch.autograd.grad(value, features["image"])[0].any()


@pytest.mark.parametrize("fields", [{"positives": 0}, {"every": 0}, {"cap": 0.5}, {"momentum": 1.0}])
def test_fields_that_make_no_sense_are_refused(fields):
    with pytest.raises(UserError, match="at least 1|to below 1"):
        build("collossl", fields)
