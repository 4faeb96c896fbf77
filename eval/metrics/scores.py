"""Scores of a classification: expected under a random order of ties, absent classes left out."""

from __future__ import annotations

import numpy as np
import torch
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import Ranks
from torch import Tensor


def accuracy(ranks: Ranks, k: int) -> Measurement | None:
    """Share of the images whose class is among the first k; None where there are fewer than k classes."""
    return Measurement(ranks.hits(k).numpy(), unit="images") if ranks.size >= k else None


def mean_per_class_recall(ranks: Ranks, labels: Tensor) -> Measurement:
    """Mean over the classes that occur of the share of their images that is classified right.

    Equals scikit-learn's balanced_accuracy_score where no scores tie. labels [N].
    """
    return Measurement(ranks.hits(1).numpy(), strata=labels.numpy(), unit="images")


def mean_average_precision(scores: Tensor, targets: Tensor) -> Measurement:
    """Mean over classes of the average precision: scores [N, C], targets [N, C] of 0 and 1.

    AP = sum over positives of the precision at their score / positives; equal scores stand at one threshold, as
    in scikit-learn, so a model that scores all alike gets the class's share and not luck. A class without
    positives counts 0, as in CLIP_benchmark. The values are pseudo-values: AP + N * dAP/dw_i, w_i the weight of
    sample i (infinitesimal jackknife), whose mean is AP and whose spread is that of AP over samples drawn anew.
    """
    pseudo = torch.zeros(len(scores), dtype=torch.float64)
    for column, truth in zip(scores.T, targets.T):
        pseudo += _average_precision(column.double(), truth.double())
    return Measurement((pseudo / scores.shape[1]).numpy(), unit="images")


def _average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Return N pseudo-values whose mean is the average precision of one class: scores [N], truth [N]."""
    n, positives = len(scores), float(truth.sum())
    if positives == 0:
        return torch.zeros(n, dtype=torch.float64)
    order = scores.argsort(descending=True)
    back = order.argsort()
    ordered, y = scores[order], truth[order]
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1  # where the group of equal scores ends
    first = torch.searchsorted(-ordered, -ordered)
    seen, right = (last + 1).double(), y.cumsum(0)[last]
    precision = right / seen
    ap = float((y * precision).sum()) / positives
    # weight on sample m moves the precision of every positive that stands at m's score or below it
    below_seen = _from(y * right / seen**2, first)
    below_right = _from(y / seen, first)
    slope = (y * (precision - ap) + y * below_right - below_seen) / positives
    return (ap + n * slope)[back]


def _from(x: Tensor, first: Tensor) -> Tensor:
    """Return the sum of x from position first[i] to the end, for each i."""
    total = x.flip(0).cumsum(0).flip(0)
    return total[first]


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """Count images by true class (rows) and predicted class (columns): [C, C]."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).numpy()


def rank_of_class(values: Tensor, labels: Tensor) -> Ranks:
    """Return where each sample's class stands among all: values [N, C], labels [N]."""
    own = values.gather(1, labels[:, None])
    tied = (values == own).sum(1) - 1
    return Ranks((values > own).sum(1), tied, torch.ones_like(tied), values.shape[1])
