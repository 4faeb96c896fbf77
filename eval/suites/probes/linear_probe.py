"""Fit a linear classifier on image features and measure it on another set."""

from __future__ import annotations

import argparse
import time

import torch
from mmclr.eval import two_sets
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.metrics import logistic, scores
from mmclr.eval.metrics.scores import rank_of_class
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite
from mmclr.eval.two_sets import embed_both, result
from torch import Tensor

PENALTIES = tuple(10.0**e for e in range(4, -7, -1))  # from the smoothest on, each starts from the one before
HELD_OUT = 0.2  # share of each class that chooses the penalty


def linear_probe(embedder: Embedder, train: EvalSet, test: EvalSet, *, shots: int = -1, seed: int = 0) -> Result:
    """Fit a linear classifier on image features and measure it on another set (Radford et al., appendix A.3).

    The penalty is chosen on a fifth of each class, then all of `train` is fitted; `shots` per class, -1: all.
    """
    began = time.perf_counter()
    learnt, tested = embed_both(embedder, train, test)
    x, y = _few(learnt, shots, seed)
    classes = len(train.classnames)
    penalty = choose_penalty(x, y, classes, seed)
    model = logistic.fit(x, y, classes, penalty=penalty)
    ranks, labels = rank_of_class(model(tested.images), tested.data.classes), tested.data.classes
    measured = {
        "lp_acc1": scores.accuracy(ranks, 1),
        "lp_acc5": scores.accuracy(ranks, 5),
        "lp_mean_per_class_recall": scores.mean_per_class_recall(ranks, labels),
        "weight_decay": penalty / len(x),
        "seed": float(seed),
        "fewshot_k": float(shots),
        "normalized": 1.0,
    }
    return result("linear_probe", embedder, learnt, tested, measured, began)


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


def _few(learnt: Embedded, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    y = learnt.data.classes
    if shots < 0:
        return learnt.images, y
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[y[order] == c][:shots] for c in y.unique()])
    return learnt.images[chosen], y[chosen]


def _add(parser: argparse.ArgumentParser) -> None:
    two_sets.add(parser)
    parser.add_argument(
        "--shots", "--fewshot_k", type=int, default=-1, help="images of each class to learn from; -1: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shots and the held-out fifth")


suite = Suite(
    "linear_probe",
    linear_probe.__doc__,
    two_sets.EXAMPLES.format(suite="linear_probe"),
    run=lambda embedder, sets, args: linear_probe(embedder, *sets, shots=args.shots, seed=args.seed),
    open=two_sets.open_both,
    add=_add,
)
main = suite.main
