"""Show what other temperatures would make of a model's embeddings, in loss and gradient.

Wang and Liu, Understanding the Behaviour of Contrastive Loss, CVPR 2021, arXiv 2012.09740. The share of wrong answer j
in the gradient of anchor i is r_ij = softmax over j != i of s_ij / tau. Small temperatures give all of it to the
hardest, large ones the same to each.
Reduces to: InfoNCE of the whole set as one batch, at the model's own temperature.
Differs from the paper: image-text pairs in place of two views, both directions; effective negatives, exp of the entropy
of r, are told beside the shares.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet, text_hash
from mmclr.eval.suite import Suite, about
from torch import Tensor
from torch.nn import functional as F

from mmclr.errors import UserError

TILE = 1024
TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
KINDS = ("loss", "effective_negatives", "hardest_share")


def run(embedder: Embedder, data: EvalSet, *, temperatures: Sequence[float] = TEMPERATURES) -> Result:
    """Measure images against their first captions at several temperatures, on embeddings made once."""
    data.need_captions()
    began = time.perf_counter()
    embedded = embedder.images(data)
    texts = [captions[0] for captions in embedded.data.captions]
    if len(texts) < 2:
        raise UserError(f"{data.name}: one pair has no wrong answers; this needs two or more")
    swept = sweep(embedded.images, embedder.texts(texts, "captions"), temperatures)
    measured = {
        f"{kind}@{tau:g}": Measurement(values.numpy(), unit="pairs", share=False)
        for kind in KINDS
        for tau, values in swept[kind].items()
    }
    curves = {kind: [[tau, float(values.mean())] for tau, values in sorted(swept[kind].items())] for kind in KINDS}
    return Result.of(
        measured,
        task="temperature",
        sizes={"images": len(embedded.data), "captions": len(texts)},
        notes=[f"the model's own temperature is {1 / embedder.scale:.4g}"],
        examples={"temperatures": curves},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash("\0".join(texts))),
    )


@torch.no_grad()
def sweep(x: Tensor, y: Tensor, temperatures: Sequence[float]) -> dict[str, dict[float, Tensor]]:
    """Unit-norm pairs x, y [N, D] -> {kind: {temperature: [N]}}, each the mean of both directions.

    loss: InfoNCE against all N. effective_negatives: exp of the entropy of r_i, 1 to N - 1. hardest_share: the largest
    of r_i. No N x N matrix is kept.
    """
    out = {kind: {tau: torch.zeros(len(x), dtype=torch.float64) for tau in temperatures} for kind in KINDS}
    for rows, columns in ((x, y), (y, x)):
        for start in range(0, len(rows), TILE):
            scores = (rows[start : start + TILE] @ columns.T).double()
            own = scores.diagonal(start).clone()
            scores.diagonal(start).fill_(-torch.inf)
            part = slice(start, start + len(scores))
            for tau in temperatures:
                for kind, values in _at(scores / tau, own / tau).items():
                    out[kind][tau][part] += values / 2
    return out


def _at(wrong: Tensor, own: Tensor) -> dict[str, Tensor]:
    """Return the kinds for logits of the wrong answers [n, N] (-inf at the right one) and of the right one [n]."""
    shares = wrong.softmax(1)
    return {
        "loss": F.softplus(wrong.logsumexp(1) - own),
        "effective_negatives": torch.special.entr(shares).sum(1).exp(),
        "hardest_share": shares.max(1).values,
    }


EXAMPLES = """examples:
  mmclr eval temperature runs/clip --data 'test-{00000..00003}.tar'
  mmclr eval temperature runs/clip --data wds_flickr8k --temperatures 0.01 0.05 0.1 0.5 --out results/temperature.json

effective_negatives near 1: only the hardest wrong answer counts. near N - 1: all count alike. `mmclr report` draws it.
"""


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperatures", type=float, nargs="+", default=list(TEMPERATURES), metavar="TAU")


def _run(embedder: Embedder, data: EvalSet, args: argparse.Namespace) -> Result:
    if min(args.temperatures) <= 0:
        raise UserError(f"--temperatures {min(args.temperatures):g}: a temperature is above 0")
    return run(embedder, data, temperatures=sorted(set(args.temperatures)))


suite = Suite("temperature", __doc__, EXAMPLES, run=_run, add=_add)
main = suite.main
