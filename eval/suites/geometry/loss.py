"""Compute the contrastive loss on a set, whatever batch size a model was trained with.

A loss of whole batches grows with the logarithm of their size. Here each pair stands against the same number of
others, drawn by a fixed seed, so that runs of different batch sizes can be compared.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import refuse_broken
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet, text_hash
from mmclr.eval.suite import Suite, about
from torch import Tensor

from mmclr.losses.diagnostics import fixed_batches, fixed_negatives_loss

NEGATIVES = 255


def run(embedder: Embedder, data: EvalSet, *, negatives: int = NEGATIVES) -> Result:
    """Measure InfoNCE of images and their first captions at the model's temperature, each against `negatives`.

    Beside it how sure the model is: `confidence` is the mean probability of what it finds most likely, `accuracy` how
    often that is right, `overconfidence` the one less the other.
    """
    data.need_captions()
    began = time.perf_counter()
    embedded = embedder.images(data)
    texts = [captions[0] for captions in embedded.data.captions]
    vectors, scale = embedder.texts(texts, "captions"), embedder.model.scale.detach().cpu()
    for side, x in (("image", embedded.images), ("caption", vectors)):
        refuse_broken(side, x)
    loss = fixed_negatives_loss(embedded.images, vectors, scale, negatives)
    against = min(negatives, len(texts) - 1)
    return Result.of(
        {"loss": loss, **confidence(embedded.images, vectors, float(scale), negatives)},
        task="contrastive_loss",
        sizes={"images": len(texts), "captions": len(texts)},
        notes=[f"each pair against {against} others; chance is {math.log(against + 1):.4f}"],
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash("\0".join(texts))),
    )


def confidence(x: Tensor, y: Tensor, scale: float, negatives: int) -> dict[str, Measurement]:
    """Return confidence, accuracy and their difference over pairs x and y [N, D], the mean of both directions."""
    sure, right = [], []
    for s, fresh in fixed_batches(x, y, scale, negatives):
        each = [logits[:fresh].softmax(1) for logits in (s, s.T)]
        most = [p.max(1).values for p in each]
        # of equal ones each is as likely to be taken
        hits = [(p.diagonal() == top).double() / (p == top[:, None]).sum(1) for p, top in zip(each, most)]
        sure.append((most[0] + most[1]) / 2)
        right.append((hits[0] + hits[1]) / 2)
    p, hit = torch.cat(sure).numpy(), torch.cat(right).numpy()
    return {
        "confidence": Measurement(p),
        "accuracy": Measurement(hit),
        "overconfidence": Measurement(p - hit, share=False),
    }


def _options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--negatives", type=int, default=NEGATIVES, metavar="N", help="others that a pair stands against")


EXAMPLES = """examples:
  mmclr eval loss runs/clip --data 'val-{00000..00003}.tar'
  mmclr eval loss runs/clip --data wds_flickr8k --negatives 1023
"""

suite = Suite(
    "loss",
    "The contrastive loss on a set, whatever batches a model was trained with.",
    EXAMPLES,
    run=lambda embedder, data, args: run(embedder, data, negatives=args.negatives),
    add=_options,
)
main = suite.main
