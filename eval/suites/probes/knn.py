"""Classify images by the votes of their nearest labelled images."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmclr.eval import two_sets
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics import scores
from mmclr.eval.metrics.ranking import top
from mmclr.eval.metrics.scores import rank_of_class
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite
from mmclr.eval.two_sets import embed_both, result

KS = (1, 10, 20)
TEMPERATURE = 0.07  # of the neighbours' votes


def knn(embedder: Embedder, train: EvalSet, test: EvalSet, *, ks: Sequence[int] = KS) -> Result:
    """Classify by the votes of the k nearest images, exp(cosine / 0.07) each (Wu et al., CVPR 2018, 1805.01978)."""
    began = time.perf_counter()
    learnt, tested = embed_both(embedder, train, test)
    near, index = top(tested.images, learnt.images, max(ks))
    measured: dict[str, Any] = {}
    for k in ks:
        votes = torch.zeros(len(near), len(train.classnames), dtype=torch.float64)
        votes.scatter_add_(1, learnt.data.classes[index[:, :k]], (near[:, :k].double() / TEMPERATURE).exp())
        ranks = rank_of_class(votes, tested.data.classes)
        measured[f"knn{k}_acc1"] = scores.accuracy(ranks, 1)
        measured[f"knn{k}_mean_per_class_recall"] = scores.mean_per_class_recall(ranks, tested.data.classes)
    return result("knn", embedder, learnt, tested, measured, began)


def _add(parser: argparse.ArgumentParser) -> None:
    two_sets.add(parser)
    parser.add_argument("--k", type=int, nargs="+", default=list(KS), help="neighbours")


suite = Suite(
    "knn",
    knn.__doc__,
    two_sets.EXAMPLES.format(suite="knn"),
    run=lambda embedder, sets, args: knn(embedder, *sets, ks=args.k),
    open=two_sets.open_both,
    add=_add,
)
main = suite.main
