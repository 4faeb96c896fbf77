"""Measure gap, spread, alignment, spectrum and hardness of the two clouds of embeddings.

Fahim et al., It's Not a Modality Gap, 2024, arXiv 2405.18570: the distance of the two centroids |mean x - mean y|, and
how well a linear classifier tells images from texts. Wang and Isola, ICML 2020, arXiv 2005.10242: alignment = mean
|x_i - y_i|^2, uniformity = log mean_{i != j} exp(-2 |x_i - x_j|^2). Wang and Liu, CVPR 2021, arXiv 2012.09740:
tolerance, effective negatives.
Reduces to: a distance and an alignment of 0 where images and texts are the same vectors.
Differs from the paper: no N x N matrix is kept; the classifier's accuracy is that on a fifth of the pairs, held out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics import logistic
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet, text_hash
from mmclr.eval.suite import Suite, about
from torch import Tensor

TILE = 1024
SHARPNESS = 2.0  # t of uniformity
Measured = dict[str, Measurement | float | None]


def run(embedder: Embedder, data: EvalSet) -> Result:
    """Measure images, and their first captions where there are captions; tolerance where there are classes."""
    began = time.perf_counter()
    embedded = embedder.images(data)
    data, images = embedded.data, embedded.images
    measured = cloud(images, "image")
    texts: list[str] = []
    if data.captions and embedder.head != "pre":
        texts = [captions[0] for captions in data.captions]
        vectors = embedder.texts(texts, "captions")
        measured |= cloud(vectors, "text") | between(images, vectors, embedder.scale)
    if data.labels is not None and not data.multilabel:
        measured["tolerance"] = tolerance(images, data.labels)
    return Result.of(
        measured,
        task="geometry",
        sizes={"images": len(data), "captions": len(texts)},
        notes=["of several captions the first is used"] if any(len(c) > 1 for c in data.captions) else [],
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash("\0".join(texts))),
    )


def cloud(x: Tensor, name: str) -> Measured:
    """Describe one cloud x [N, D]: uniformity and spectrum."""
    centred = (x - x.mean(0)).double()
    values = torch.linalg.eigvalsh(centred.T @ centred / len(x)).flip(0).clamp(min=0)
    shares = values / values.sum().clamp(min=1e-300)
    return {
        f"{name}_uniformity": uniformity(x),
        f"{name}_effective_rank": float(torch.special.entr(shares).sum().exp()),
        f"{name}_components_80": int((shares.cumsum(0) < 0.8).sum()) + 1.0 if values.sum() > 0 else None,
        f"{name}_rank": float(torch.linalg.matrix_rank(x.double())),
        f"{name}_norm_of_mean": float(x.mean(0).norm()),
    }


def between(x: Tensor, y: Tensor, scale: float) -> Measured:
    """Describe two clouds whose rows are pairs, x and y [N, D], at inverse temperature `scale`."""
    matched = (x * y).sum(1)
    row, column, hardest = _contrast(x, y, scale)
    mean_x, mean_y = x.mean(0), y.mean(0)
    n = len(x)
    unmatched = (n * float(mean_x @ mean_y) - float(matched.mean())) / (n - 1) if n > 1 else None
    squares = float(((x.double().T @ x.double()) * (y.double().T @ y.double())).sum() - matched.double().square().sum())
    return {
        "alignment": _mean(2 - 2 * matched),
        "cross_uniformity": cross_uniformity(x, y),
        "centroid_distance": float((mean_x - mean_y).norm()),
        "centroid_cosine": float(torch.cosine_similarity(mean_x, mean_y, dim=0)),
        "covariance_distance": covariance_distance(x, y),
        "linear_separability": separability(x, y),
        "matched_cosine": _mean(matched),
        "unmatched_cosine": unmatched,
        "unmatched_variance": None if unmatched is None else squares / (n * (n - 1)) - unmatched**2,
        "margin": _mean(matched - hardest) if n > 1 else None,
        "effective_negatives_of_image": _mean(row.exp()) if n > 1 else None,
        "effective_negatives_of_text": _mean(column.exp()) if n > 1 else None,
    }


def uniformity(x: Tensor) -> Measurement | None:
    """log mean_{i != j} exp(-t ||x_i - x_j||^2), t = 2; between -8 (spread out) and 0 (one point)."""
    if len(x) < 2:
        return None
    sums = torch.cat([_kernel(rows, x).sum(1) for rows in x.split(TILE)]) - 1  # less i = j
    return _log_mean(sums / (len(x) - 1), 2.0)


def cross_uniformity(x: Tensor, y: Tensor) -> Measurement | None:
    """log mean_{i != j} exp(-t ||x_i - y_j||^2), t = 2: matched pairs are left out."""
    if len(x) < 2:
        return None
    own = _kernel_of((x * y).sum(1).double())
    by_row = torch.cat([_kernel(rows, y).sum(1) for rows in x.split(TILE)])
    by_column = torch.cat([_kernel(rows, x).sum(1) for rows in y.split(TILE)])
    return _log_mean((by_row + by_column - 2 * own) / (2 * (len(x) - 1)), 2.0)


def tolerance(x: Tensor, labels: Tensor) -> float | None:
    """Mean cosine of two different samples of one class; None where no class has two."""
    x, labels = x[labels >= 0], labels[labels >= 0]  # what has no class is like nothing
    counts = torch.bincount(labels)
    sums = torch.zeros(len(counts), x.shape[1], dtype=torch.float64).index_add_(0, labels, x.double())
    pairs = int((counts * (counts - 1)).sum())
    own = float(x.double().square().sum())
    return (float(sums.square().sum()) - own) / pairs if pairs else None


def separability(x: Tensor, y: Tensor, seed: int = 0) -> float | None:
    """Accuracy of a linear classifier of modality on the fifth of the pairs that it was not fitted on."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    if not len(train) or not len(test):
        return None
    which = torch.arange(2).repeat_interleave(len(train))
    model = logistic.fit(torch.cat([x[train], y[train]]), which, 2)
    right = (model(x[test]).argmax(1) == 0).double().mean() + (model(y[test]).argmax(1) == 1).double().mean()
    return float(right) / 2


def covariance_distance(x: Tensor, y: Tensor) -> float:
    """Bures distance of the two covariances: what is left of the gap when both clouds are centred.

    sqrt( tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2 ), the Wasserstein distance of centred Gaussians.
    """
    a, b = (torch.cov(z.double().T, correction=0).reshape(z.shape[1], z.shape[1]) for z in (x, y))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return math.sqrt(max(float(a.trace() + b.trace() - 2 * cross), 0.0))


def _contrast(x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entropies of softmax over the negatives, by image and by text, and each image's hardest negative."""
    row, hardest = zip(*_entropies(x, y, scale))
    column, _ = zip(*_entropies(y, x, scale))
    return torch.cat(row), torch.cat(column), torch.cat(hardest)


def _entropies(x: Tensor, y: Tensor, scale: float) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(x), TILE):
        scores = x[start : start + TILE] @ y.T
        scores.diagonal(start).fill_(-torch.inf)
        shares = (scale * scores.double()).softmax(1)
        yield torch.special.entr(shares).sum(1), scores.max(1).values


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return _kernel_of((x @ y.T).double())


def _kernel_of(cosine: Tensor) -> Tensor:
    """exp(-t d^2) with d^2 = 2 - 2 cos, which has no square root to go wrong at distance 0."""
    return (-SHARPNESS * (2 - 2 * cosine)).clamp(max=0).exp()


def _log_mean(means: Tensor, order: float) -> Measurement:
    """log of a mean over pairs as pseudo-values of the samples: log m + order * (m_i - m) / m (Hoeffding)."""
    mean = means.mean()
    return Measurement((mean.log() + order * (means - mean) / mean).numpy(), unit="pairs", share=False)


def _mean(values: Tensor) -> Measurement:
    return Measurement(values.double().numpy(), unit="pairs", share=False)


EXAMPLES = """examples:
  mmclr eval geometry runs/clip --data 'test-{00000..00003}.tar'
  mmclr eval geometry runs/clip --data wds_cifar10            (a classification: images only, and tolerance)

uniformity: -8 spread out .. 0 one point. centroid_distance: 0 .. 2. linear_separability: 0.5 mixed .. 1 apart.
effective_negatives: how many wrong answers share the gradient at the model's temperature, 1 .. N - 1.
margin: cosine of the pair less that of the hardest wrong answer.
"""

suite = Suite(
    "geometry",
    "How the clouds of image and text embeddings lie: gap, spread, spectrum.",
    EXAMPLES,
    run=lambda embedder, data, args: run(embedder, data),
)
main = suite.main
