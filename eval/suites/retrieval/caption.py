"""Score the captions that a model writes against references: CIDEr, BLEU, METEOR, CLIPScore.

BLEU-4, METEOR, ROUGE-L, CIDEr, exact matches and perplexity; CLIPScore is 2.5 times the cosine of image and caption, 0
if negative (Hessel et al., EMNLP 2021). The model that wrote judges itself unless --judge names another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from mmclr.eval.embed import ranks
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.embed.images import decoded
from mmclr.eval.metrics import caption_scores as scores
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.progress import bar
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet, text_hash
from mmclr.eval.suite import Suite, about
from torch import Tensor

from mmclr import parallel
from mmclr.models.captioning.decoding import Decoding, add_arguments, decoding
from mmclr.models.captioning.generate import Writer, log_probabilities


def run(
    embedder: Embedder,
    data: EvalSet,
    how: Decoding = Decoding(),  # noqa: B008
    *,
    until: str = "",
    judge: Embedder | None = None,
    show: int = 0,
) -> Result:
    """Measure what the model writes about a set's images.

    With `until`, only what stands before it is compared, in captions and references; the perplexity is of whole
    references. `show` images with their captions become examples.
    """
    data.need_captions()
    began = time.perf_counter()
    writer = Writer(embedder.alone("write captions"))
    embedded = embedder.images(data)
    judged = embedded if judge is None else judge.images(embedded.data)
    captions, costs, tokens = write(embedder, writer, embedded.data, how)
    measured = {
        **compare(captions, embedded.data.captions, until),
        "perplexity": scores.perplexity(costs, tokens),
        "CLIPScore": _clip_score(judged, judge or embedder, captions),
    }
    notes = [str(how), f"CLIPScore judged by {judge.name if judge else 'the model itself'}"]
    notes += [f"compared up to {until!r}"] if until else []
    notes += [] if measured["METEOR_without_synonyms"] else ["METEOR is null: pip install 'mmclr[captions]'"]
    return Result.of(
        measured,
        task="captioning",
        sizes={"images": len(embedded.data), "captions": sum(map(len, embedded.data.captions))},
        notes=notes,
        examples={"captions": examples(embedded.data, captions, until, show)} if show else {},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash(repr((how, until)))),
    )


def compare(
    captions: Sequence[str], references: Sequence[Sequence[str]], until: str = ""
) -> dict[str, Measurement | None]:
    """Return the measures of N captions against one or more references each."""
    found = [scores.words(_before(text, until)) for text in captions]
    wanted = [[scores.words(_before(text, until)) for text in texts] for texts in references]
    return {
        "exact": scores.exact(found, wanted),
        "Bleu_4": scores.bleu(found, wanted),
        "METEOR_without_synonyms": scores.meteor(found, wanted),
        "ROUGE_L": scores.rouge_l(found, wanted),
        "CIDEr": scores.cider(found, wanted),
    }


def write(embedder: Embedder, writer: Writer, data: EvalSet, how: Decoding) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return N captions, and of each image's references the sum of -log p [N] and the number of tokens [N]."""
    mine, captions, costs = ranks.part(len(data)), list[str](), list[Tensor]()
    with bar(f"captions of {data.name}", len(mine)) as advance:
        for numbers, pixels in _batches(embedder, data, mine):
            rows = writer(pixels, replace(how, seed=how.seed + numbers[0]))
            captions += map(embedder.tokenizer.decode, rows)
            costs.append(_costs(embedder, pixels, [data.captions[i] for i in numbers]))
            advance(len(numbers))
    told = torch.cat(costs) if costs else torch.zeros(0, 2, dtype=torch.float64)
    both = ranks.join_parts(told, len(data)).numpy()
    said = [caption for part in parallel.say(json.dumps(captions)) for caption in json.loads(part)]
    return said, both[:, 0], both[:, 1]


def _batches(embedder: Embedder, data: EvalSet, part: range) -> Iterator[tuple[list[int], Tensor]]:
    """Yield numbers of images and their normalised pixels; all can be decoded, since all were embedded."""
    start = part.start
    for batch in decoded(data, part, embedder.medium, embedder.batch, embedder.workers, ()):
        rows = {digest: row for row, digest in enumerate(batch.new)}
        pixels = batch.pixels[[rows[digest] for digest in batch.digests]]
        yield list(range(start, start + len(pixels))), embedder.model.normalise(pixels.to(embedder.device))
        start += len(pixels)


def _costs(embedder: Embedder, pixels: Tensor, references: list[Sequence[str]]) -> Tensor:
    """Return of each image's references the sum of -log p and the number of tokens, their ends counted, [b, 2]."""
    owner = [row for row, texts in enumerate(references) for _ in texts]
    tokens, lengths = embedder.tokenizer([text for texts in references for text in texts])
    out = torch.zeros(len(references), 2, dtype=torch.float64)
    for part in torch.arange(len(owner)).split(embedder.batch):
        some = [owner[i] for i in part]
        found = log_probabilities(
            embedder.alone("write captions"), pixels[some], *(x[part].to(pixels.device) for x in (tokens, lengths))
        )
        out.index_add_(0, torch.tensor(some), torch.stack([-found.sum(1).cpu().double(), lengths[part] - 1.0], 1))
    return out


def _clip_score(embedded: Embedded, judge: Embedder, captions: Sequence[str]) -> Measurement:
    cosines = (embedded.images * judge.texts(list(captions), "written captions")).sum(1)
    return Measurement((2.5 * cosines.clamp(min=0)).double().numpy(), unit="images", share=False)


def examples(data: EvalSet, captions: Sequence[str], until: str, count: int) -> list[dict[str, object]]:
    """Return images, evenly through the set, with what was written, a reference, and whether they agree."""
    some = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int).tolist()
    right = compare(captions, data.captions, until)["exact"]
    assert right is not None
    return [
        {"image": data.read(i), "caption": captions[i], "truth": data.captions[i][0], "right": bool(right.values[i])}
        for i in some
    ]


def _before(text: str, until: str) -> str:
    return text.split(until)[0] if until else text


EXAMPLES = """examples:
  mmclr eval caption runs/coca --data wds_flickr8k --beams 4 --out results/flickr8k.json
  mmclr eval caption runs/coca --data 'shards/*.tar' --until ':' --judge exported/
"""


def _add(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument("--until", default="", metavar="TEXT", help="compare only what stands before this text")
    parser.add_argument("--judge", default="", metavar="MODEL", help="another model, for CLIPScore")


def _run(embedder: Embedder, data: EvalSet, args: argparse.Namespace) -> Result:
    judge = Embedder.load(args.judge, device=args.device, workers=args.workers) if args.judge else None
    return run(embedder, data, decoding(args), until=args.until, judge=judge, show=args.examples)


suite = Suite("caption", __doc__, EXAMPLES, run=_run, add=_add)
main = suite.main
