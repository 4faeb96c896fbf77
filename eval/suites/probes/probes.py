"""Suites that learn from labelled pictures: a linear classifier, or the nearest neighbours."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.metrics import logistic, scores
from mmclr.eval.metrics.ranking import Ranks, top
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite, about
from torch import Tensor

from mmclr.errors import UserError

PENALTIES = tuple(10.0**e for e in range(4, -7, -1))  # from the smoothest on, each starts from the one before
HELD_OUT = 0.2  # share of each class that chooses the penalty
KS = (1, 10, 20)
TEMPERATURE = 0.07  # of the neighbours' votes


def linear_probe(embedder: Embedder, train: EvalSet, test: EvalSet, *, shots: int = -1, seed: int = 0) -> Result:
    """Fit a linear classifier on image features and measure it on another set (Radford et al., appendix A.3).

    The penalty is chosen on a fifth of each class, then all of `train` is fitted; `shots` per class, -1: all.
    """
    began = time.perf_counter()
    learnt, tested = _both(embedder, train, test)
    x, y = _few(learnt, shots, seed)
    classes = len(train.classnames)
    penalty = choose_penalty(x, y, classes, seed)
    model = logistic.fit(x, y, classes, penalty=penalty)
    ranks, labels = rank_of_class(model(tested.images), tested.data.labels), tested.data.labels
    measured = {
        "lp_acc1": scores.accuracy(ranks, 1),
        "lp_acc5": scores.accuracy(ranks, 5),
        "lp_mean_per_class_recall": scores.mean_per_class_recall(ranks, labels),
        "weight_decay": penalty / len(x),
        "seed": float(seed),
        "fewshot_k": float(shots),
        "normalized": 1.0,
    }
    return _result("linear_probe", embedder, learnt, tested, measured, began)


def knn(embedder: Embedder, train: EvalSet, test: EvalSet, *, ks: Sequence[int] = KS) -> Result:
    """Classify by the votes of the k nearest pictures, exp(cosine / 0.07) each (Wu et al., CVPR 2018, 1805.01978)."""
    began = time.perf_counter()
    learnt, tested = _both(embedder, train, test)
    near, index = top(tested.images, learnt.images, max(ks))
    measured: dict[str, Any] = {}
    for k in ks:
        votes = torch.zeros(len(near), len(train.classnames), dtype=torch.float64)
        votes.scatter_add_(1, learnt.data.labels[index[:, :k]], (near[:, :k].double() / TEMPERATURE).exp())
        ranks = rank_of_class(votes, tested.data.labels)
        measured[f"knn{k}_acc1"] = scores.accuracy(ranks, 1)
        measured[f"knn{k}_mean_per_class_recall"] = scores.mean_per_class_recall(ranks, tested.data.labels)
    return _result("knn", embedder, learnt, tested, measured, began)


def choose_penalty(x: Tensor, y: Tensor, classes: int, seed: int) -> float:
    """Return the penalty that classifies a held-out fifth of each class best; of equals the largest."""
    held = held_out(y, seed)
    if not held.any():
        return 1.0
    best, chosen, start = -1.0, 1.0, None
    for penalty in PENALTIES:
        start = logistic.fit(x[~held], y[~held], classes, penalty=penalty, start=start, steps=200)
        right = float((start(x[held]).argmax(1) == y[held]).double().mean())
        if right > best:
            best, chosen = right, penalty
    return chosen


def held_out(y: Tensor, seed: int) -> Tensor:
    """Mark a fifth of each class, at random; none of a class of fewer than two: bool [n]."""
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    order = shuffled[y[shuffled].argsort(stable=True)]
    counts = torch.bincount(y)
    place = torch.arange(len(y)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    wanted = (counts * HELD_OUT).ceil().long().where(counts > 1, torch.zeros_like(counts))
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[order[place < wanted[y[order]]]] = True
    return mask


def rank_of_class(values: Tensor, labels: Tensor) -> Ranks:
    """Return where each sample's class stands among all: values [N, C], labels [N]."""
    own = values.gather(1, labels[:, None])
    tied = (values == own).sum(1) - 1
    return Ranks((values > own).sum(1), tied, torch.ones_like(tied), values.shape[1])


def _both(embedder: Embedder, train: EvalSet, test: EvalSet) -> tuple[Embedded, Embedded]:
    for data in (train, test):
        data.need_classes()
        if data.multilabel:
            raise UserError(f"{data.name}: pictures of several classes are not probed; name a label of one class")
    if list(train.classnames) != list(test.classnames):
        odd = sorted(set(train.classnames) ^ set(test.classnames))
        raise UserError(f"the training and the test set have other classes, for example {odd[:3]}; give --classnames")
    return embedder.pictures(train), embedder.pictures(test)


def _few(learnt: Embedded, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    y = learnt.data.labels
    if shots < 0:
        return learnt.images, y
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[y[order] == c][:shots] for c in y.unique()])
    return learnt.images[chosen], y[chosen]


def _result(task: str, embedder: Embedder, learnt: Embedded, tested: Embedded, measured: Any, began: float) -> Result:
    return Result.of(
        measured,
        task=task,
        sizes={"images": len(tested.data), "training_images": len(learnt.data), "classes": len(tested.data.classnames)},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, tested, training_pictures=learnt.hash),
    )


EXAMPLES = """examples:
  mmclr eval SUITE runs/clip --train wds_cifar10 --data wds_cifar10                    (splits train and test)
  mmclr eval SUITE runs/clip --train 'train-*.tar' --data 'test-*.tar' --label json:subgroup
"""


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_classes(parser)
    parser.add_argument("--train", required=True, metavar="DATA", help="the set to learn from, like --data")
    parser.add_argument("--train_split", "--train-split", default="train", help="its split, in CLIP_benchmark's layout")
    parser.add_argument(
        "--shots",
        "--fewshot_k",
        type=int,
        default=-1,
        help="linear_probe: pictures of each class to learn from; -1: all",
    )
    parser.add_argument("--seed", type=int, default=0, help="linear_probe: of the shots and the held-out fifth")
    parser.add_argument("--k", type=int, nargs="+", default=list(KS), help="knn: neighbours")


def _open(args: argparse.Namespace) -> tuple[EvalSet, EvalSet]:
    """Open both sets; shards name their classes as the test set has them."""
    test = options.dataset(args)
    return options.dataset(args, data=args.train, split=args.train_split, classnames=test.classnames), test


probe_suite = Suite(
    "linear_probe",
    linear_probe.__doc__,
    EXAMPLES.replace("SUITE", "linear_probe"),
    run=lambda embedder, sets, args: linear_probe(embedder, *sets, shots=args.shots, seed=args.seed),
    open=_open,
    add=_add,
)
knn_suite = Suite(
    "knn",
    knn.__doc__,
    EXAMPLES.replace("SUITE", "knn"),
    run=lambda embedder, sets, args: knn(embedder, *sets, ks=args.k),
    open=_open,
    add=_add,
)
main_linear_probe, main_knn = probe_suite.main, knn_suite.main
