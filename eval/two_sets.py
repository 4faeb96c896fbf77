"""Learn on one labelled set and be measured on another: options, opening and results of such suites."""

from __future__ import annotations

import argparse
import time
from typing import Any

from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import about

from mmclr.errors import UserError

EXAMPLES = """examples:
  mmclr eval {suite} runs/clip --train wds_cifar10 --data wds_cifar10                    (splits train and test)
  mmclr eval {suite} runs/clip --train 'train-*.tar' --data 'test-*.tar' --label json:subgroup
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of classes and of the set to learn from."""
    options.add_classes(parser)
    parser.add_argument("--train", required=True, metavar="DATA", help="the set to learn from, like --data")
    parser.add_argument("--train_split", "--train-split", default="train", help="its split, in CLIP_benchmark's layout")


def open_both(args: argparse.Namespace) -> tuple[EvalSet, EvalSet]:
    """Open the set to learn from and the test set; shards name their classes as the test set has them."""
    test = options.dataset(args)
    return options.dataset(args, data=args.train, split=args.train_split, classnames=test.classnames), test


def embed_both(embedder: Embedder, train: EvalSet, test: EvalSet) -> tuple[Embedded, Embedded]:
    """Embed the images of two sets with one list of classes; raise UserError where they have other classes."""
    for data in (train, test):
        data.need_classes()
        if data.multilabel:
            raise UserError(f"{data.name}: images of several classes are not probed; name a label of one class")
    if list(train.classnames) != list(test.classnames):
        odd = sorted(set(train.classnames) ^ set(test.classnames))
        raise UserError(f"the training and the test set have other classes, for example {odd[:3]}; give --classnames")
    return embedder.images(train), embedder.images(test)


def result(task: str, embedder: Embedder, learnt: Embedded, tested: Embedded, measured: Any, began: float) -> Result:
    """Return what was measured on `tested` since `began` (time.perf_counter), with the facts of both sets."""
    return Result.of(
        measured,
        task=task,
        sizes={"images": len(tested.data), "training_images": len(learnt.data), "classes": len(tested.data.classnames)},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, tested, training_images=learnt.hash),
    )
