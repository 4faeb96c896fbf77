"""Rank captions for images and images for captions: recall@k both ways.

An image may have any number of captions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from mmclr.eval import options
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.figures import charts, examples
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import Ranks, Relevance, rank_both
from mmclr.eval.progress import bar
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet, text_hash
from mmclr.eval.suite import Suite, about

KS = (1, 5, 10)
RELATIONS = {
    "pair": "a caption's one right image is its own, as in CLIP_benchmark",
    "caption": "equal captions are one query, and every image that has it is right",
}


def run(embedder: Embedder, data: EvalSet, *, ks: Sequence[int] = KS, relation: str = "pair", show: int = 0) -> Result:
    """Measure recall@k of images for captions (image_retrieval) and of captions for images (text_retrieval).

    A hit is any right answer among the first k, by its chance where scores tie. Intervals treat captions of one
    image as one unit, and the gallery as given. `show` queries, from the best found to the worst, become examples.
    """
    data.need_captions()
    began = time.perf_counter()
    embedded = embedder.images(data)
    data = embedded.data
    texts, relevance = queries(data, relation)
    captions = embedder.texts(texts, "captions")
    with bar("ranking", -(-len(texts) // 1024) * -(-len(data) // 1024)) as advance:
        to_image, to_text = rank_both(captions, embedded.images, relevance, progress=advance)
    owner = relevance.item.numpy() if relation == "pair" else None
    measured = {}
    for k in ks:
        measured[f"image_retrieval_recall@{k}"] = Measurement(
            to_image.hits(k).numpy(), owner, unit="images" if relation == "pair" else "captions"
        )
        measured[f"text_retrieval_recall@{k}"] = Measurement(to_text.hits(k).numpy(), unit="images")
    return Result.of(
        measured,
        task="zeroshot_retrieval",
        ties={"captions": to_image.n_tied, "images": to_text.n_tied},
        sizes={"images": len(data), "captions": len(texts)},
        notes=notes(to_image, to_text, relation, ks),
        examples=examples.collect(
            finds=show and examples.finds(embedded, texts, captions, relevance, examples.spread(to_image, show)),
            scores=show and charts.score_sample(embedded.images, captions, relevance),
            **(charts.maps(embedded.images, captions, data.keys, texts) if show else {}),
        ),
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash("\0".join(texts))),
    )


def queries(data: EvalSet, relation: str) -> tuple[list[str], Relevance]:
    """Return the texts that are ranked, and which images are right for each."""
    texts = [text for captions in data.captions for text in captions]
    counts = torch.tensor([len(captions) for captions in data.captions])
    owner = torch.repeat_interleave(torch.arange(len(data)), counts)
    if relation == "pair":
        return texts, Relevance(torch.arange(len(texts)), owner)
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    pairs = torch.tensor([[number[text] for text in texts], owner.tolist()]).unique(dim=1)
    return list(number), Relevance(pairs[0], pairs[1])


def notes(to_image: Ranks, to_text: Ranks, relation: str, ks: Sequence[int]) -> list[str]:
    """Say what a reader must know to compare the numbers."""
    out = [f"relation {relation}: {RELATIONS[relation]}"]
    if max(ks) > to_image.size:
        out.append(f"there are only {to_image.size} images: recall@k with k beyond that is 1")
    if to_image.n_tied > len(to_image.tied) // 2:
        out.append("more than half of the captions tie with a wrong image: the model maps many inputs to one point")
    return out


EXAMPLES = """examples:
  mmclr eval retrieval runs/clip --data 'shards/test-{00000..00003}.tar'
  mmclr eval retrieval runs/clip --data 'shards/*.tar' --caption json:name --relation caption
  mmclr eval retrieval exported/ --data wds_flickr8k --out results/flickr8k.json    (CLIP_benchmark's layout)
"""


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_classes(parser)
    parser.add_argument("--recall_k", "--recall-k", "--k", type=int, nargs="+", default=list(KS), metavar="K")
    meanings = "; ".join(f"{name}: {text}" for name, text in RELATIONS.items())
    parser.add_argument("--relation", choices=RELATIONS, default="pair", help=meanings)


def _run(embedder: Embedder, data: EvalSet, args: argparse.Namespace) -> Result:
    return run(embedder, data, ks=args.recall_k, relation=args.relation, show=args.examples)


suite = Suite("retrieval", __doc__, EXAMPLES, run=_run, add=_add)
main = suite.main
