"""Classification scores against scikit-learn and loops; ties, absent classes and a collapsed model included."""

import numpy as np
import pytest
import torch
from mmclr.eval.metrics.ranking import Relevance, rank
from mmclr.eval.metrics.scores import accuracy, confusion, mean_average_precision, mean_per_class_recall
from sklearn import metrics

from tests import bounds


def ranked(images, classes, labels):
    return rank(images, classes, Relevance(torch.arange(len(labels)), labels))


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    images, classes = torch.randn(200, 12, generator=g), torch.randn(11, 12, generator=g)
    labels = torch.randint(0, 8, (200,), generator=g)  # classes 8, 9, 10 never occur
    return images + classes[labels], classes, labels


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_accuracy_and_recall_equal_scikit_learn(task):
    images, classes, labels = task
    ranks, logits = ranked(*task), (images @ classes.T).numpy()
    top5 = metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(11))
    assert accuracy(ranks, 1).mean == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))
    assert accuracy(ranks, 5).mean == pytest.approx(top5)
    balanced = metrics.balanced_accuracy_score(labels, logits.argmax(1))
    assert mean_per_class_recall(ranks, labels).mean == pytest.approx(balanced)
    found = confusion(torch.as_tensor(logits.argmax(1)), labels, 11)
    assert (found == metrics.confusion_matrix(labels, logits.argmax(1), labels=range(11))).all()


def test_top_five_of_four_classes_does_not_exist(task):
    images, classes, labels = task
    assert accuracy(ranked(images, classes[:4], labels % 4), 5) is None


def test_a_collapsed_model_gets_chance():
    labels = torch.arange(40) % 8
    ranks = ranked(torch.ones(40, 4), torch.ones(8, 4), labels)
    assert accuracy(ranks, 1).mean == pytest.approx(1 / 8)
    assert accuracy(ranks, 5).mean == pytest.approx(5 / 8)
    assert mean_per_class_recall(ranks, labels).mean == pytest.approx(1 / 8)


@pytest.mark.parametrize("levels", [5, 10_000])
def test_average_precision_equals_scikit_learn_with_and_without_ties(levels):
    g = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (300, 6), generator=g).float()
    targets = torch.rand(300, 6, generator=g) < torch.tensor([0.5, 0.2, 0.1, 0.05, 0.9, 0.3])
    expected = metrics.average_precision_score(targets, scores, average="macro")
    assert mean_average_precision(scores, targets).mean == pytest.approx(expected, abs=1e-12)


def test_a_class_without_positives_counts_zero():
    scores, targets = torch.randn(20, 2), torch.zeros(20, 2)
    targets[:5, 0] = 1
    one = metrics.average_precision_score(targets[:, 0], scores[:, 0])
    assert mean_average_precision(scores, targets).mean == pytest.approx(one / 2)


def test_pseudo_values_are_the_derivative_by_a_samples_weight():
    g = torch.Generator().manual_seed(2)
    scores = torch.randint(0, 12, (30, 1), generator=g).float()
    targets = (torch.rand(30, 1, generator=g) < 0.4).float()
    found = mean_average_precision(scores, targets)
    step = 1e-5
    for i in range(30):
        up, down = np.ones(30), np.ones(30)
        up[i], down[i] = 1 + step, 1 - step
        slope = [metrics.average_precision_score(targets[:, 0], scores[:, 0], sample_weight=w) for w in (up, down)]
        expected = found.mean + 30 * (slope[0] - slope[1]) / (2 * step)
        assert found.values[i] == pytest.approx(expected, abs=bounds.bound(terms=16))
