"""Measure how well clusters of a set's images, found without labels, are its classes.

Protocol of Bai et al., Towards Distribution-Agnostic Generalized Category Discovery (BaCon), NeurIPS 2023, arXiv
2310.01376. Lloyd's rounds from several starts give every image a cluster a_i; clusters and classes y are matched one to
one (Hungarian method): accuracy = max over matchings m of mean_i [m(a_i) = y_i], and the same matching over images of
known and of new classes alone; nmi = I(a; y) / ((H(a) + H(y)) / 2); ari is Hubert and Arabie's adjusted Rand index.
No number has an interval: the matching is chosen on the images that it is measured on.
Reduces to: 1, where clusters are the classes; ari 0 for clusters by chance.
Differs from the paper: no labelled images take part in clustering; what is known is named in a file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.ranking import refuse_broken
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite, about
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmclr.errors import UserError
from mmclr.losses.clusters.clustering import Clusters, nearest

STARTS = 10  # of which the clusters with the smallest squared distances are taken
ROUNDS = 100  # at most, from each start
Metrics = dict[str, float | None]


def run(embedder: Embedder, data: EvalSet, *, clusters: int = 0, known: Path | None = None) -> Result:
    """Cluster the images of a set and compare with its classes; an image without a class is left out."""
    data.need_classes()
    if data.multilabel:
        raise UserError(f"{data.name}: an image of several classes is in none of them; name a label of one class")
    began = time.perf_counter()
    embedded = embedder.images(data)
    some = (embedded.data.classes >= 0).nonzero()[:, 0]
    x, labels = embedded.images[some].double(), embedded.data.classes[some]
    refuse_broken("image", x)
    count = clusters or len(labels.unique())
    if not 0 < count <= len(x):
        raise UserError(f"--clusters: {clusters} clusters of {len(x)} images; take 1 to {len(x)}")
    old = None if known is None else torch.isin(labels, _numbers(known, embedded.data.classnames))
    missing = len(embedded.data) - len(x)
    return Result.of(
        {**agreement(cluster(x, count), labels, old), "clusters": float(count)},
        task="clustering",
        sizes={"images": len(x), "classes": len(labels.unique())},
        notes=[f"{missing} images have no class and are left out"] if missing else [],
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded),
    )


def cluster(x: Tensor, count: int) -> Tensor:
    """Return the cluster of each row, int64 [n]: the best of several runs of Lloyd's rounds on x [n, D]."""
    found = []
    for salt in range(STARTS):
        clusters = Clusters(count, x.shape[1]).double()
        clusters.fit(x, torch.arange(len(x)), warm=False, rounds=ROUNDS, salt=salt)
        which, distance = nearest(x, clusters.means)
        found.append((float(distance.square().sum()), salt, which))
    return min(found)[2]


def agreement(which: Tensor, labels: Tensor, old: Tensor | None = None) -> Metrics:
    """Return the metrics of clusters [n] beside classes [n]; `old` bool [n] says whose class was known, if any."""
    _, a = which.unique(return_inverse=True)
    _, y = labels.unique(return_inverse=True)
    table = np.zeros((int(a.max()) + 1, int(y.max()) + 1))
    np.add.at(table, (a.numpy(), y.numpy()), 1)
    rows, cols = linear_sum_assignment(table, maximize=True)
    matched = np.full(len(table), -1)
    matched[rows] = cols
    right = torch.from_numpy(matched[a.numpy()] == y.numpy()).double()
    measured: Metrics = {"accuracy": float(right.mean()), "nmi": _nmi(table), "ari": _ari(table)}
    if old is not None:
        for name, part in (("known", right[old]), ("new", right[~old])):
            measured[f"accuracy_{name}"] = float(part.mean()) if len(part) else None
    return measured


def _nmi(table: np.ndarray) -> float:
    """Return the mutual information of rows and columns over the mean of their entropies; 1 where both are 0."""
    p = table / table.sum()
    entropies = [-sum(q * np.log(q) for q in p.sum(axis) if q > 0) for axis in (0, 1)]
    both = -(p[p > 0] * np.log(p[p > 0])).sum()
    mean = sum(entropies) / 2
    return float(max(0.0, sum(entropies) - both) / mean) if mean > 0 else 1.0


def _ari(table: np.ndarray) -> float:
    """Return the share of pairs on which rows and columns agree, 0 where that is chance and 1 where it is all."""

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    inside, of_rows, of_cols = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = of_rows * of_cols / max(1.0, pairs(table.sum(keepdims=True)))
    most = (of_rows + of_cols) / 2
    return (inside - chance) / (most - chance) if most != chance else 1.0


def _numbers(file: Path, names: Sequence[str]) -> Tensor:
    """Return the numbers of the classes that a file names, one a line. Raises UserError for one that is none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--known {file}: {error}") from None
    for line in lines:
        if line not in names:
            raise UserError(f"--known {file}: there is no class {line!r} in the set")
    return torch.tensor([names.index(line) for line in lines], dtype=torch.int64)


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_classes(parser)
    parser.add_argument("--clusters", type=int, default=0, metavar="K", help="clusters; 0: as many as classes")
    parser.add_argument("--known", type=Path, metavar="FILE", help="classes that the training knew, one a line")


EXAMPLES = """examples:
  mmclr eval clustering runs/clip --data wds_cifar10
  mmclr eval clustering runs/bacon --data 'test-*.tar' --label json:group --known seen.txt --out results/clusters.json

accuracy, nmi: 0 .. 1; ari: 0 by chance .. 1.
"""

suite = Suite(
    "clustering",
    "How well clusters of a set's images are its classes (Hungarian accuracy, NMI, ARI).",
    EXAMPLES,
    run=lambda embedder, data, args: run(embedder, data, clusters=args.clusters, known=args.known),
    add=_add,
)
main = suite.main
