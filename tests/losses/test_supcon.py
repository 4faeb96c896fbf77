"""supcon against the sums of its paper, written out with loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import build
from tests import bounds


def batch(b=24, D=6, seed=1):
    g = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(b, D, generator=g, dtype=torch.float64), dim=1) for _ in "ab")
    ids = torch.randint(0, 8, (b,), generator=g)
    return {
        "image": image.requires_grad_(),
        "text": text.requires_grad_(),
        "scale": torch.tensor(9.0, dtype=torch.float64).requires_grad_(),
        "caption_id": ids,
        "weights": torch.rand(b, generator=g, dtype=torch.float64),
    }


def by_hand(image, text, scale, caption_id, weights, positives):
    """The paper's double sum, one anchor after another, in plain floats."""
    s, ids = (scale * image @ text.T).tolist(), caption_id.tolist()
    total = 0.0
    for matrix in (s, list(map(list, zip(*s)))):
        for i, row in enumerate(matrix):
            z = sum(math.exp(v) for v in row)
            same = [v for v, other in zip(row, ids) if other == ids[i]]
            if positives == "mean":
                one = -sum(math.log(math.exp(v) / z) for v in same) / len(same)
            else:
                one = -math.log(sum(math.exp(v) for v in same) / z)
            total += weights[i].item() * one
    return total / weights.sum().item() / 2


@pytest.mark.parametrize("positives", ["mean", "sum"])
def test_equals_the_papers_sums(positives):
    features = batch()
    value = build("supcon", {"positives": positives})(**features)
    assert value.item() == pytest.approx(by_hand(**features, positives=positives), rel=1e-12)


@pytest.mark.parametrize("positives", ["mean", "sum"])
def test_gradients_equal_the_dense_form(positives):
    features = batch()
    image, text, scale, ids, weights = features.values()
    s, same = scale * image @ text.T, ids[:, None] == ids
    each = 0
    for matrix in (s, s.T):
        log_p = matrix.log_softmax(1)
        if positives == "mean":
            each = each - (log_p * same).sum(1) / same.sum(1)
        else:
            each = each - log_p.masked_fill(~same, -math.inf).logsumexp(1)
    dense = (each * weights).sum() / weights.sum() / 2
    ours = build("supcon", {"positives": positives})(**features)
    leaves = (image, text, scale)
    for mine, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(dense, leaves)):
        torch.testing.assert_close(mine, other, **bounds.near())


@pytest.mark.parametrize("positives", ["mean", "sum"])
def test_with_distinct_captions_it_is_clip(positives):
    features = batch()
    features["caption_id"] = torch.arange(24)
    clip = build("clip", {})(**features, image_id=torch.arange(24))
    torch.testing.assert_close(build("supcon", {"positives": positives})(**features), clip)


def test_labels_instead_of_captions():
    features = batch()
    labels = {name: value for name, value in features.items() if name != "caption_id"}
    by_label = build("supcon_label", {})(**labels, label=features["caption_id"])
    torch.testing.assert_close(by_label, build("supcon", {})(**features))


def numpy_supcon(image, text, scale, labels):
    """The mean over both directions, each sample's positives those of its class; without a class it is alone."""
    s, total = scale * image @ text.T, 0.0
    for m in (s, s.T):
        for i, row in enumerate(m):
            positives = [j for j in range(len(m)) if j == i or labels[i] == labels[j] != -1]
            total += np.log(np.exp(row).sum()) - np.mean(row[positives])
    return total / (2 * len(s))


@pytest.mark.parametrize("labels", [[-1, 2, -1, 2, -1, 0], [-1] * 6, [3] * 6, [0, 1, 2, 3, 4, -1]])
def test_samples_without_a_label_are_no_class(labels):
    g = torch.Generator().manual_seed(2)
    image, text = (F.normalize(torch.randn(6, 5, generator=g, dtype=torch.float64)) for _ in "ab")
    value = build("supcon_label", {})(
        image=image, text=text, scale=7.3, label=torch.tensor(labels), weights=torch.ones(6, dtype=torch.float64)
    )
    assert value.item() == pytest.approx(
        numpy_supcon(image.numpy(), text.numpy(), 7.3, labels), rel=bounds.bound(torch.float64, terms=512, size=10)
    )
