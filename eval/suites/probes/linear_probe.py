"""Fit a linear classifier on image features; calibrated, for noisy and rare classes.

Zhang et al., When Noisy Labels Meet Long Tail Dilemmas: A Representation Calibration Method, ICCV 2023, arXiv
2211.10955; the weights of common classes are derived from their method's description. Of each class k what has a local
outlier factor above `cut` is left out, mu_k and Sigma_k are of the rest, and a class that keeps fewer images n_k than
the mean class borrows of the q common classes c whose |mu_c - mu_k| is least: w_c = n_c / |mu_c - mu_k|^2 / sum,
mu'_k = (1-a) mu_k + a sum_c w_c mu_c, Sigma'_k = (1-a) Sigma_k + a sum_c w_c Sigma_c. Each class is filled up to the
largest by unit-norm draws of N(mu', Sigma' + eps I), of the common ones with a = 0.
Reduces to: the plain probe (Radford et al., appendix A.3), where classes are as large and nothing is out of place.
Differs from the paper: a probe of frozen features; Sigma is shrunk (Ledoit and Wolf); the penalty per image is that of
the plain probe. Its other half is the objective rcal.
"""

from __future__ import annotations

import argparse
import time

import torch
from mmclr.eval import two_sets
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.metrics import logistic, scores
from mmclr.eval.metrics.calibration import Calibration, balance
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import Ranks
from mmclr.eval.metrics.scores import rank_of_class
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite
from mmclr.eval.two_sets import embed_both, result
from torch import Tensor

from mmclr.config import load

PENALTIES = tuple(10.0**e for e in range(4, -7, -1))  # from the smoothest on, each starts from the one before
HELD_OUT = 0.2  # share of each class that chooses the penalty


def linear_probe(
    embedder: Embedder,
    train: EvalSet,
    test: EvalSet,
    *,
    shots: int = -1,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> Result:
    """Fit a linear classifier on image features and measure it on another set (Radford et al., appendix A.3).

    The penalty is chosen on a fifth of each class, then all of `train` is fitted; `shots` per class, -1: all. With a
    `calibration` it is fitted on what that makes of `train` (--calibrate: RCAL, Zhang et al., ICCV 2023, 2211.10955).
    """
    began = time.perf_counter()
    learnt, tested = embed_both(embedder, train, test)
    x, y = _few(learnt, shots, seed)
    classes = len(train.classnames)
    decay, more = choose_penalty(x, y, classes, seed) / len(x), {"normalized": 1.0}
    counts = torch.bincount(y, minlength=classes)
    if calibration:
        made = balance(x, y, calibration, seed)
        more |= {"left_out": float((~made.kept).sum()), "drawn": float(made.drawn)}
        x, y = made.x, made.y
    model = logistic.fit(x, y, classes, penalty=decay * len(x))
    ranks, labels = rank_of_class(model(tested.images), tested.data.classes), tested.data.classes
    measured = {
        "lp_acc1": scores.accuracy(ranks, 1),
        "lp_acc5": scores.accuracy(ranks, 5),
        "lp_mean_per_class_recall": scores.mean_per_class_recall(ranks, labels),
        **_by_frequency(ranks, labels, counts),
        "weight_decay": decay,
        "seed": float(seed),
        "fewshot_k": float(shots),
        **more,
    }
    return result("linear_probe", embedder, learnt, tested, measured, began)


def _by_frequency(ranks: Ranks, labels: Tensor, counts: Tensor) -> dict[str, Measurement | None]:
    """Return the recall of classes with fewer training images than the mean class, and of the others."""
    rare = counts < counts.double().mean()
    found: dict[str, Measurement | None] = {}
    for name, some in (("tail", rare[labels]), ("head", ~rare[labels])):
        hits = Measurement(ranks.hits(1)[some].numpy(), strata=labels[some].numpy(), unit="images")
        found[f"lp_{name}_recall"] = hits if bool(some.any()) else None
    return found


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
    parser.add_argument("--seed", type=int, default=0, help="of the shots, the held-out fifth and what is drawn")
    parser.add_argument(
        "--calibrate",
        nargs="*",
        metavar="NAME=VALUE",
        help="clean the classes and fill up rare ones (RCAL): k=20 neighbours and cut=1.5 of the outlier factor, q=3 "
        "common classes lend a=0.5 of a rare one, eps=0.001",
    )


suite = Suite(
    "linear_probe",
    linear_probe.__doc__,
    two_sets.EXAMPLES.format(suite="linear_probe"),
    run=lambda embedder, sets, args: linear_probe(
        embedder,
        *sets,
        shots=args.shots,
        seed=args.seed,
        calibration=None if args.calibrate is None else load(Calibration, {}, args.calibrate),
    ),
    open=two_sets.open_both,
    add=_add,
)
main = suite.main
