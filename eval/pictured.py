"""What the report draws of an evaluation, as small plain trees: score distributions, a map, a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.ranking import Relevance
from eval.scores import confusion

SAMPLE = 2000  # scores, and points of the map, of each kind
MATRIX = 60  # classes above which a confusion matrix is no picture
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


def plane(
    images: Tensor, texts: Tensor, names: Sequence[str], captions: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Return both clouds on the two main axes of their union: {"image": [[x, y, name], ...], "text": ...}."""
    g = torch.Generator().manual_seed(seed)
    chosen = [torch.randperm(len(x), generator=g)[: SAMPLE // 4].sort().values for x in (images, texts)]
    both = torch.cat([images[chosen[0]], texts[chosen[1]]]).double()
    centred = both - both.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    at = centred @ vectors[:, -2:].flip(1)
    kinds = (("image", at[: len(chosen[0])], chosen[0], names), ("text", at[len(chosen[0]) :], chosen[1], captions))
    return {
        kind: [[round(x, 4), round(y, 4), words[i]] for (x, y), i in zip(points.tolist(), which.tolist())]
        for kind, points, which, words in kinds
    }


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
