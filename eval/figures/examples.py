"""Examples for people to look at: what a query finds, what an image is taken for. Plain trees, images as bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmclr.eval.embed.embedder import Embedded
from mmclr.eval.metrics.ranking import Ranks, Relevance, top
from torch import Tensor

from mmclr.storage import written

Example = dict[str, Any]
KIND = "evaluation"  # in manifests: a result and what lies beside it


def spread(ranks: Ranks, count: int) -> list[int]:
    """Return queries from the best found to the worst, evenly."""
    order = ranks.expected().argsort(stable=True)
    picks = torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()
    return order[picks].tolist()


def finds(
    embedded: Embedded, texts: Sequence[str], vectors: Tensor, relevance: Relevance, which: Sequence[int], k: int = 10
) -> list[Example]:
    """Return for each text of `which` the k images that it finds first: vectors [Q, D] of all texts."""
    scores, index = top(vectors[list(which)], embedded.images, k)
    right = set(zip(relevance.query.tolist(), relevance.item.tolist()))
    data = embedded.data
    return [
        {
            "text": texts[query],
            "found": [
                {"image": data.read(i), "right": (query, i) in right, "name": _name(embedded, i), "score": score}
                for i, score in zip(items, row)
            ],
        }
        for query, items, row in zip(which, index.tolist(), scores.tolist())
    ]


def guesses(embedded: Embedded, weights: Tensor, scale: float, which: Sequence[int], k: int = 5) -> list[Example]:
    """Return for each image of `which` its k likeliest classes with their probabilities: weights [C, D]."""
    data = embedded.data
    shares = (scale * embedded.images[list(which)] @ weights.T).softmax(1)
    best, index = shares.topk(min(k, len(weights)), 1)
    return [
        {
            "image": data.read(i),
            "truth": data.classnames[int(data.classes[i])],
            "guesses": [[data.classnames[c], p] for c, p in zip(classes, row)],
        }
        for i, classes, row in zip(which, index.tolist(), best.tolist())
    ]


def collect(**kinds: Any) -> dict[str, Any]:
    """Return those kinds of examples of which there are any."""
    return {name: found for name, found in kinds.items() if found}


def save(path: Path, examples: dict[str, Any]) -> None:
    """Write examples as JSON, images in base64."""
    written.write(path, json.dumps(examples, default=lambda data: base64.b64encode(data).decode()), KIND)


def _name(embedded: Embedded, number: int) -> str:
    captions = embedded.data.captions
    return captions[number][0] if captions else embedded.data.keys[number]
