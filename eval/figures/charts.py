"""Drawings of an evaluation for the report, as small plain trees: score distributions, a map, a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmclr.eval.metrics.ranking import Relevance
from mmclr.eval.metrics.scores import confusion
from torch import Tensor

SAMPLE = 2000  # scores, and points of the map, of each kind
MATRIX = 60  # classes above which a confusion matrix is no image
PAIRS = 12  # most frequent confusions that are named


def score_sample(images: Tensor, texts: Tensor, relevance: Relevance, seed: int = 0) -> dict[str, list[float]]:
    """Return cosines of right pairs and of pairs drawn at random among the wrong ones."""
    g = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(relevance.query), generator=g)[:SAMPLE]
    right = (texts[relevance.query[some]] * images[relevance.item[some]]).sum(1)
    query, item = (torch.randint(len(x), (SAMPLE,), generator=g) for x in (texts, images))
    known = set(zip(relevance.query.tolist(), relevance.item.tolist()))
    wrong = [i for i, pair in enumerate(zip(query.tolist(), item.tolist())) if pair not in known]
    drawn = (texts[query[wrong]] * images[item[wrong]]).sum(1)
    return {"right": _round(right), "wrong": _round(drawn)}


def maps(images: Tensor, texts: Tensor, names: Sequence[str], captions: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Return maps of a sample of both clouds, each {"image": [[x, y, name], ...], "text": ...}.

    `plane` is their two main axes; `umap`, where umap-learn is installed, keeps neighbours together (McInnes et al.,
    UMAP, arXiv 1802.03426).
    """
    g = torch.Generator().manual_seed(seed)
    of_image, of_text = (torch.randperm(len(x), generator=g)[: SAMPLE // 4].sort().values for x in (images, texts))
    both = torch.cat([images[of_image], texts[of_text]]).double()
    labels = [[names[i] for i in of_image.tolist()], [captions[i] for i in of_text.tolist()]]
    return {
        name: {
            kind: [[round(x, 4), round(y, 4), word] for (x, y), word in zip(points.tolist(), words)]
            for kind, points, words in zip(("image", "text"), at.split([len(of_image), len(of_text)]), labels)
        }
        for name, at in (("plane", _main_axes(both)), ("umap", _umap(both, seed)))
        if at is not None
    }


def _main_axes(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, -2:].flip(1)


def _umap(x: Tensor, seed: int) -> Tensor | None:
    try:
        from umap import UMAP
    except ImportError:
        return None
    near = min(15, len(x) - 1)
    found = UMAP(n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1).fit_transform(x.numpy())
    return torch.as_tensor(found)


def confusions(predicted: Tensor, labels: Tensor, classnames: Sequence[str]) -> dict[str, Any]:
    """Return the most frequent confusions [truth, taken for, count, share of the truth], and a small set's matrix."""
    counts = torch.from_numpy(confusion(predicted, labels, len(classnames)))
    totals = counts.sum(1).clamp(min=1)
    off = counts.clone()
    off.fill_diagonal_(0)
    values, where = off.flatten().topk(min(PAIRS, off.numel()))
    pairs = [
        [classnames[i // len(classnames)], classnames[i % len(classnames)], n, n / int(totals[i // len(classnames)])]
        for n, i in zip(values.tolist(), where.tolist())
        if n
    ]
    tree: dict[str, Any] = {"pairs": pairs}
    if len(classnames) <= MATRIX:
        tree |= {"classes": list(classnames), "matrix": counts.tolist()}
    return tree


def _round(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
