"""Predict a number from image features by ridge regression, rare numbers told apart.

Few, medium and many are the test samples whose neighbourhood has few, medium and many training samples, as Yang, Zha,
Chen, Wang and Katabi have it (Delving into Deep Imbalanced Regression, ICML 2021, arXiv 2102.09554): bins of one width,
below 20, up to 100, above 100 training samples.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite, about
from scipy import stats
from torch import Tensor

from mmclr.errors import UserError

PENALTIES = tuple(10.0**e for e in range(-8, 5))
FEW, MANY = 20, 100  # training samples of a bin: below, above
BINS = 100  # over the range of the training targets, unless the width is given


def regression(
    embedder: Embedder,
    train: EvalSet,
    test: EvalSet,
    *,
    width: float = 0.0,
    few: int = FEW,
    many: int = MANY,
    seed: int = 0,
) -> Result:
    """Fit a ridge regression on image features and measure it on another set.

    The penalty is chosen on a fifth of `train`, then all of it is fitted. `width` is that of a bin, 0: a hundredth of
    the range of the training targets.
    """
    began = time.perf_counter()
    if width < 0 or not 0 < few <= many:
        raise UserError(f"bins are wider than 0 and 0 < --few <= --many, not {width:g}, {few} and {many}")
    learnt, tested = embedder.images(train), embedder.images(test)
    known, wanted = _targets(learnt.data), _targets(tested.data)
    x = learnt.images.double()
    penalty = choose_penalty(x, known, seed)
    found = ridge(x, known, penalty)(tested.images.double())
    error = (found - wanted).abs().numpy()
    near = neighbours(known.numpy(), wanted.numpy(), width)
    measured: dict[str, Any] = {
        "mae": Measurement(error, share=False),
        "spearman": spearman(found.numpy(), wanted.numpy()),
        "r2": _explained(found, wanted),
    }
    for name, some in (("few", near < few), ("medium", (near >= few) & (near <= many)), ("many", near > many)):
        measured[f"mae_{name}"] = Measurement(error[some], share=False) if some.any() else None
    measured["mae_of_median"] = float((known.median() - wanted).abs().mean())  # what knows no image
    measured["penalty"] = penalty
    return Result.of(
        measured,
        task="regression",
        sizes={"images": len(tested.data), "training_images": len(learnt.data)},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, tested, training_images=learnt.hash),
    )


class Ridge:
    """A linear function of features: x [n, D] -> x w + b, float64 [n]."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the predictions of x [n, D]."""
        return x @ self.weight + self.bias


def ridge(x: Tensor, y: Tensor, penalty: float) -> Ridge:
    """Minimise mean_i (x_i w + b - y_i)^2 + penalty * ||w||^2 over float64 x [n, D], y [n]; the bias goes free."""
    mean_x, mean_y = x.mean(0), y.mean()
    u, s, v = torch.linalg.svd(x - mean_x, full_matrices=False)
    weight = v.T @ (s / (s.square() + penalty * len(x)) * (u.T @ (y - mean_y)))
    return Ridge(weight, mean_y - mean_x @ weight)


def choose_penalty(x: Tensor, y: Tensor, seed: int) -> float:
    """Return the penalty with the least squared error on a random fifth, fitted on the rest; of equals the largest."""
    if len(y) < 10:
        return 1.0
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    held, rest = order[: len(y) // 5], order[len(y) // 5 :]
    errors = {p: float((ridge(x[rest], y[rest], p)(x[held]) - y[held]).square().mean()) for p in PENALTIES}
    return max(errors, key=lambda p: (-errors[p], p))


def neighbours(known: np.ndarray, wanted: np.ndarray, width: float = 0.0) -> np.ndarray:
    """Return how many of the numbers `known` lie in the bin of each of `wanted`; bins begin at the least known."""
    width = width or float(np.ptp(known)) / BINS or 1.0
    bins, counts = np.unique(np.floor((known - known.min()) / width), return_counts=True)
    place = np.floor((wanted - known.min()) / width)
    at = np.minimum(np.searchsorted(bins, place), len(bins) - 1)
    return np.where(bins[at] == place, counts[at], 0)


def spearman(found: np.ndarray, wanted: np.ndarray) -> Measurement | None:
    """Return the rank correlation as a mean over samples; None where all of one side are equal.

    With z the standardised ranks, a sample's value is zx zy - rho (zx^2 + zy^2) / 2 + rho: their mean is rho, and their
    spread is that of the correlation's influence function.
    """
    ranks = [stats.rankdata(x) for x in (found, wanted)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    x, y = ((rank - rank.mean()) / rank.std() for rank in ranks)
    rho = float((x * y).mean())
    return Measurement(x * y - rho * (x**2 + y**2) / 2 + rho, share=False)


def _explained(found: Tensor, wanted: Tensor) -> Measurement | None:
    """Return R^2, the share of the targets' variance that the predictions explain."""
    spread = float((wanted - wanted.mean()).square().mean())
    return Measurement(1 - (found - wanted).square().numpy() / spread, share=False) if spread > 0 else None


def _targets(data: EvalSet) -> Tensor:
    if data.targets is None:
        raise UserError(f"{data.name}: the set has no targets; name a number with --target json:FIELD")
    return data.targets


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, metavar="FIELD", help="where the number stands: json:FIELD, or txt")
    parser.add_argument("--train", required=True, metavar="DATA", help="the shards to learn from, like --data")
    parser.add_argument("--bin", type=float, default=0.0, metavar="WIDTH", help="of a bin (default: range / 100)")
    parser.add_argument("--few", type=int, default=FEW, help=f"fewer training samples in the bin: few (default {FEW})")
    parser.add_argument("--many", type=int, default=MANY, help=f"more training samples: many (default {MANY})")
    parser.add_argument("--seed", type=int, default=0, help="of the fifth that chooses the penalty")


def _open(args: argparse.Namespace) -> tuple[EvalSet, EvalSet]:
    return options.dataset(args, data=args.train, target=args.target), options.dataset(args, target=args.target)


EXAMPLES = """examples:
  mmclr eval regression runs/clip --train 'train-*.tar' --data 'test-*.tar' --target json:age
  mmclr eval regression runs/clip --train 'train-*.tar' --data 'test-*.tar' --target json:price --bin 5 --few 50
"""
suite = Suite(
    "regression",
    __doc__,
    EXAMPLES,
    run=lambda embedder, sets, args: regression(
        embedder, *sets, width=args.bin, few=args.few, many=args.many, seed=args.seed
    ),
    open=_open,
    add=_add,
)
main = suite.main
