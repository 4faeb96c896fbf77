"""Measure how far the classes of a set are apart in the neighbourhoods of its images.

Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv 2305.09062; ICNN is of arXiv 2107.06992. With d_ij to
the k nearest of image i, delta_i the nearest of another class in a window of k + 1, r_ij = d_ij / (delta_i + 1e-7) /
max(1, max_j r_ij), e_ij = d_ij / max d over neighbours of another class: S = 1 - mean_i mean_{j own} r_ij,
O = mean_i mean_{j other} e_ij, G = mean_i |{j own}| / k, icnn = (S + O) / 4 + G / 2, in 0 to 1. That of a
class has means over its images alone. No number has an interval: neighbours are shared, so images are not independent.
Reduces to: 1, where each image's neighbours are all of its class.
Differs from the paper: a measure of a whole set, whose loss is the objective icnn; an image is never its own neighbour.
"""

from __future__ import annotations

import argparse
import time

import torch
from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.ranking import refuse_broken, top
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite, about
from torch import Tensor

from mmclr.errors import UserError
from mmclr.losses.pairs.susana import distance, neighbourhoods, reach, score

K = 4  # neighbours, as in the paper
LOWEST = 3  # classes that a note names
Metrics = dict[str, float | None]
Classes = dict[int, tuple[float, int]]


def run(embedder: Embedder, data: EvalSet, *, k: int = K, window: int = 0) -> Result:
    """Measure the ICNN score of a set, and of each of its classes with two images; what has no class is left out."""
    if k < 1 or window < 0:
        raise UserError(f"--k is at least 1 and --window at least 0, not {k} and {window}")
    data.need_classes()
    if data.multilabel:
        raise UserError(f"{data.name}: an image of several classes is in none of them; name a label of one class")
    began = time.perf_counter()
    embedded = embedder.images(data)
    known = (embedded.data.classes >= 0).nonzero()[:, 0]
    x, labels = embedded.images[known].double(), embedded.data.classes[known]
    refuse_broken("image", x)
    if len(labels.unique()) < 2:
        raise UserError(f"{data.name}: its images are all of one class; separability takes two classes or more")
    measured, classes = separability(x, labels, k, window)
    named = sorted((value, embedded.data.classnames[c], n) for c, (value, n) in classes.items())
    lowest, missing = [f"{name} {value:.3f}" for value, name, _ in named[:LOWEST]], len(embedded.data) - len(x)
    notes = [f"least separate: {', '.join(lowest)}"] if lowest else []
    notes += [f"{missing} images have no class and are left out"] if missing else []
    return Result.of(
        measured,
        task="separability",
        sizes={"images": len(x), "classes": len(labels.unique())},
        notes=notes,
        examples={"separability": [[name, n, value] for value, name, n in named]},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded),
    )


def separability(x: Tensor, labels: Tensor, k: int, window: int = 0) -> tuple[Metrics, Classes]:
    """Return the metrics of a set, x [n, D] with labels [n], and (score, images) of each class of two or more."""
    few = len(x) <= k + 2
    k, window = reach(len(x), k, window)
    distances, index = nearest_others(x, window)
    near = neighbourhoods(distances, labels[index] == labels[:, None], k)
    near = near._replace(other=near.other / near.farthest.max().clamp_min(torch.finfo(x.dtype).tiny))
    counts = torch.bincount(labels)
    classes = {
        c: (float(score(near, (labels == c).to(x), few)), int(counts[c])) for c in (counts > 1).nonzero()[:, 0].tolist()
    }
    values = [value for value, _ in classes.values()]
    parts = {"same": (1 - near.own, near.has_own), "other": (near.other, near.has_other)}
    measured: Metrics = {
        "icnn": float(score(near, torch.ones_like(near.own), few)),
        "icnn_mean_per_class": sum(values) / len(values) if values else None,
        "icnn_worst_class": min(values, default=None),
        **{f"icnn_{name}": float(part[has].mean()) if has.any() else None for name, (part, has) in parts.items()},
        "icnn_share": 1.0 if few else float(near.share.mean()),
        "k": float(k),
    }
    return measured, classes


def nearest_others(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the distances [n, count] of unit vectors x [n, D] to the nearest of the others, and their numbers."""
    _, index = top(x, x, count + 1)
    own = index == torch.arange(len(x))[:, None]
    own[~own.any(1), -1] = True  # more equal vectors than places: any of them may stay
    index = index[~own].view(len(x), count)
    distances, order = torch.stack([distance(x, x[at]) for at in index.T], 1).sort(1)
    return distances, index.gather(1, order)


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_classes(parser)
    parser.add_argument("--k", type=int, default=K, help="neighbours that are looked at")
    parser.add_argument(
        "--window", type=int, default=0, help="neighbours among which the nearest of another class is sought; 0: k + 1"
    )


EXAMPLES = """examples:
  mmclr eval separability runs/clip --data wds_cifar10
  mmclr eval separability runs/clip --data 'test-{00000..00003}.tar' --label json:group --k 10 --out results/apart.json

icnn: 0 mixed .. 1 apart; the classes with the lowest scores are named, and `mmclr report` lists them all.
"""

suite = Suite(
    "separability",
    "How far the classes of a set are apart in its images' neighbourhoods (ICNN).",
    EXAMPLES,
    run=lambda embedder, data, args: run(embedder, data, k=args.k, window=args.window),
    add=_add,
)
main = suite.main
