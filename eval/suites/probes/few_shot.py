"""Classify in few-shot episodes: N classes, k images of each to learn from.

Poulakakis-Daktylidis and Jamali-Rad, BECLR: Batch Enhanced Contrastive Few-Shot Learning, ICLR 2024, arXiv 2402.02444.
Three heads: prototypes (the mean of a class's images), opta (prototypes P moved onto the queries Q, which it sees
together: P' = diag(1 / rowsum(pi)) pi Q, pi the entropic plan of optimal transport), and prompt (class names only).
Reduces to: prototypes, where each query lies on the prototype of its class.
Differs from the paper: only OpTA, its inference; the memory and the losses that it trains with are not here.
"""

from __future__ import annotations

import argparse
import time

import torch
from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.metrics import classifier
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite, about
from torch import Tensor
from torch.nn import functional as F

from mmclr.errors import UserError

SMOOTH, STEPS, STOP = 0.05, 1000, 1e-4  # of the optimal transport, as the paper has them


def run(
    embedder: Embedder,
    data: EvalSet,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> Result:
    """Measure mean accuracy over episodes drawn from a labelled set; intervals are over episodes."""
    data.need_classes()
    began = time.perf_counter()
    embedded = embedder.images(data)
    prompts = classifier.build(embedder, data.classnames, data.templates)
    rooms = _classes(embedded, shots + queries, ways)
    generator = torch.Generator().manual_seed(seed)
    hits: dict[str, list[float]] = {"prototype_acc1": [], "opta_acc1": [], "prompt_acc1": []}
    for _ in range(episodes):
        chosen = [rooms[i] for i in torch.randperm(len(rooms), generator=generator)[:ways].tolist()]
        drawn = torch.stack(
            [members[torch.randperm(len(members), generator=generator)[: shots + queries]] for _, members in chosen]
        )
        x = embedded.images[drawn]
        support, asked = x[:, :shots].mean(1), x[:, shots:].flatten(0, 1)
        labels = torch.arange(ways).repeat_interleave(queries)
        own = prompts[[number for number, _ in chosen]]
        moved = transported(support, asked, passes=5 if shots == 1 else 1, mix=1.0 if shots == 1 else 0.7)
        for name, logits in (
            ("prototype_acc1", _cosine(asked, support)),
            ("opta_acc1", _cosine(asked, moved)),
            ("prompt_acc1", _cosine(asked, own)),
        ):
            hits[name].append(expected_accuracy(logits, labels))
    return Result.of(
        {name: Measurement(torch.tensor(values).numpy(), unit="episodes") for name, values in hits.items()},
        task="few_shot",
        sizes={"images": len(embedded.data), "ways": ways, "shots": shots, "queries": queries, "episodes": episodes},
        notes=["opta sees all queries of an episode at once; compare it with transductive numbers only"],
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded),
    )


def transported(
    prototypes: Tensor, queries: Tensor, *, passes: int = 1, mix: float = 1.0, smooth: float = SMOOTH
) -> Tensor:
    """Move prototypes [C, D] onto queries [M, D]: P' = diag(1 / rowsum(pi)) pi Q, pi the entropic transport plan.

    The cost is the squared distance over its maximum, the marginals are uniform; mix * P' + (1 - mix) * P is kept.
    """
    first = prototypes
    for _ in range(passes):
        cost = torch.cdist(prototypes.double(), queries.double()).square()
        plan = _sinkhorn(cost / cost.max().clamp(min=1e-12), smooth)
        prototypes = ((plan / plan.sum(1, keepdim=True)) @ queries.double()).to(queries.dtype)
    return mix * prototypes + (1 - mix) * first


def _sinkhorn(cost: Tensor, smooth: float) -> Tensor:
    """Return the plan of uniform marginals that minimises <plan, cost> - smooth * entropy: [C, M]."""
    rows, columns = cost.shape
    u, v = cost.new_zeros(rows), cost.new_zeros(columns)
    mass = (cost.new_tensor(1 / rows).log(), cost.new_tensor(1 / columns).log())
    for _ in range(STEPS):
        before = u
        u = smooth * (mass[0] - ((v - cost) / smooth).logsumexp(1))
        v = smooth * (mass[1] - ((u[:, None] - cost) / smooth).logsumexp(0))
        if float((u - before).abs().sum()) < STOP:
            break
    return ((u[:, None] + v - cost) / smooth).exp()


def expected_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose class scores highest, by its chance among equal ones."""
    own = logits.gather(1, labels[:, None])
    return float(((logits > own).sum(1) == 0).double().div((logits == own).sum(1)).mean())


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return x @ F.normalize(y, dim=-1).T


def _classes(embedded: Embedded, least: int, ways: int) -> list[tuple[int, Tensor]]:
    labels = embedded.data.classes
    rooms = [(int(c), (labels == c).nonzero().flatten()) for c in labels.unique()]
    enough = [(c, members) for c, members in rooms if len(members) >= least]
    if len(enough) < ways:
        raise UserError(
            f"{embedded.data.name}: an episode takes {ways} classes of {least} images, and {len(enough)} of "
            f"{len(rooms)} classes have so many; ask for fewer --ways, --shots or --queries"
        )
    return enough


EXAMPLES = """examples:
  mmclr eval few_shot runs/clip --data wds_cifar10 --ways 5 --shots 1
  mmclr eval few_shot runs/clip --data 'test-*.tar' --label json:subgroup --shots 5 --queries 5
"""
NUMBERS = {"ways": 5, "shots": 1, "queries": 15, "episodes": 600, "seed": 0}


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_classes(parser)
    for name, default in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default)


suite = Suite(
    "few_shot",
    __doc__,
    EXAMPLES,
    run=lambda embedder, data, args: run(embedder, data, **{name: getattr(args, name) for name in NUMBERS}),
    add=_add,
)
main = suite.main
