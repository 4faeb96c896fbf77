"""Classify images from nothing but class names and templates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.figures import charts, examples
from mmclr.eval.metrics import classifier, scores
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import Relevance, rank, top
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet, text_hash
from mmclr.eval.suite import Suite, about


def run(embedder: Embedder, data: EvalSet, *, show: int = 0) -> Result:
    """Measure acc1, acc5 and mean per-class recall; mean average precision where an image has several classes.

    `show` images become examples.
    """
    data.need_classes()
    began = time.perf_counter()
    weights = classifier.build(embedder, data.classnames, data.templates)
    embedded = embedder.images(data)
    measured, ties, notes = (_several if data.multilabel else _single)(embedded, weights)
    templates = data.templates
    return Result.of(
        measured,
        task="zeroshot_classification",
        ties=ties,
        sizes={"images": len(embedded.data), "classes": len(data.classnames), "templates": _count(templates)},
        notes=notes,
        examples=_examples(embedded, weights, embedder.scale, show) if show and not data.multilabel else {},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash(repr((list(data.classnames), templates)))),
    )


Measured = tuple[dict[str, Measurement | None], dict[str, int], list[str]]


def _single(embedded: Embedded, weights: torch.Tensor) -> Measured:
    labels = embedded.data.classes
    ranks = rank(embedded.images, weights, Relevance(torch.arange(len(labels)), labels))
    measured: dict[str, Measurement | None] = {
        "acc1": scores.accuracy(ranks, 1),
        "acc5": scores.accuracy(ranks, 5),
        "mean_per_class_recall": scores.mean_per_class_recall(ranks, labels),
    }
    notes = [] if ranks.size >= 5 else [f"acc5 is null: there are {ranks.size} classes"]
    absent = ranks.size - len(labels.unique())
    if absent:
        notes.append(f"{absent} of {ranks.size} classes have no image; mean_per_class_recall leaves them out")
    return measured, {"images": ranks.n_tied}, notes


def _several(embedded: Embedded, weights: torch.Tensor) -> Measured:
    targets = embedded.data.classes
    absent = int((targets.sum(0) == 0).sum())
    notes = [f"{absent} of {targets.shape[1]} classes have no image and count 0"] if absent else []
    measured: dict[str, Measurement | None] = {
        "mean_average_precision": scores.mean_average_precision(embedded.images @ weights.T, targets)
    }
    return measured, {}, notes


def _examples(embedded: Embedded, weights: torch.Tensor, scale: float, count: int) -> dict[str, Any]:
    data = embedded.data
    which = torch.linspace(0, len(data) - 1, min(count, len(data))).round().long().tolist()
    predicted = top(embedded.images, weights, 1)[1][:, 0]
    return {
        "guesses": examples.guesses(embedded, weights, scale, which),
        "confusions": charts.confusions(predicted, data.classes, data.classnames),
    }


def _count(templates: object) -> int:
    return sum(map(len, templates.values())) if isinstance(templates, Mapping) else len(templates)  # type: ignore[arg-type]


EXAMPLES = """examples:
  mmclr eval zero_shot runs/clip --data wds_cifar10                  (CLIP_benchmark's layout, split test)
  mmclr eval zero_shot runs/clip --data 'test-{00000..00003}.tar' --label json:subgroup \\
      --template 'an icon of {c}' 'a drawing of {c}'
  mmclr eval zero_shot exported/ --data 'val-*.tar' --label cls --classnames names.txt --templates templates.json
"""

suite = Suite("zero_shot", __doc__, EXAMPLES, run=lambda embedder, data, args: run(embedder, data, show=args.examples))
main = suite.main
