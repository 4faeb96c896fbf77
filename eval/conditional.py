"""Similar under a condition: GeneCIS (Vaze et al., CVPR 2023, arXiv 2306.07969), recall@1, 2, 3 in small galleries.

A query is a reference picture and a condition text. Three ways to put them together: image_only, text_only, and
image_plus_text, the mean of the two unit vectors (the paper mixes raw features; ours leave the model as unit vectors).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.embedder import Embedder
from eval.instances import Box, cut
from eval.measurement import Measurement
from eval.probes import rank_of_class
from eval.ranking import Ranks
from eval.result import Result
from eval.sets import EvalSet, text_hash
from eval.suite import Suite, about
from mmclr.data.decode import open_image
from mmclr.data.ledger import Fault
from mmclr.errors import UserError

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
KS = (1, 2, 3)
DILATE = 0.7  # how much wider than its box an instance is cut out
Combine = Callable[[Tensor, Tensor], Tensor]  # references [Q, D], conditions [Q, D] -> queries [Q, D]
BASELINES: Mapping[str, Combine] = {
    "image_only": lambda image, text: image,
    "text_only": lambda image, text: text,
    "image_plus_text": lambda image, text: 0.5 * image + 0.5 * text,
}


@dataclass(frozen=True)
class Template:
    """One question: pictures are (file, box or None)."""

    reference: tuple[str, Any]
    gallery: tuple[tuple[str, Any], ...]  # the target first
    condition: str


def run(
    embedder: Embedder, tasks: Mapping[str, Sequence[Template]], images: Path, name: str,
    combiners: Mapping[str, Combine] = BASELINES,
) -> Result:  # fmt: skip
    """Measure each task with each combiner; the average over tasks is the mean of their recalls."""
    began = time.perf_counter()
    everything = [t for templates in tasks.values() for t in templates]
    sources = list(dict.fromkeys(s for t in everything for s in (t.reference, *t.gallery)))
    number = {source: i for i, source in enumerate(sources)}
    data = EvalSet(name, lambda i: _load(images, sources[i]), [str(source) for source in sources])
    embedded = embedder.pictures(data)
    if len(embedded.data) < len(data):
        raise UserError(
            f"{name}: {len(data) - len(embedded.data)} pictures cannot be decoded; each belongs to a gallery"
        )
    measured: dict[str, Measurement | float | None] = {}
    ties = 0
    for task, templates in tasks.items():
        conditions = embedder.texts([t.condition for t in templates], "conditions")
        references = embedded.images[[number[t.reference] for t in templates]]
        for how, combine in combiners.items():
            query = torch.nn.functional.normalize(combine(references, conditions), dim=-1)
            ranks = _ranks(query, embedded.images, [[number[s] for s in t.gallery] for t in templates])
            ties += ranks.n_tied
            for k in KS:
                measured[f"{task}_{how}_recall@{k}"] = Measurement(ranks.hits(k).numpy(), unit="templates")
    for how in combiners:
        recalls = [
            m.mean for key, m in measured.items() if key.endswith(f"_{how}_recall@1") and isinstance(m, Measurement)
        ]
        measured[f"average_{how}_recall@1"] = sum(recalls) / len(recalls)
    return Result.of(
        measured,
        task="conditional_retrieval",
        ties={"templates": ties},
        sizes={"images": len(data), "templates": len(everything), "tasks": len(tasks)},
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash("\0".join(t.condition for t in everything))),
    )


def read(path: Path) -> dict[str, list[Template]]:
    """Read one task's JSON, or a folder with those of several."""
    files = [path] if path.is_file() else [f for f in (path / f"{task}.json" for task in TASKS) if f.is_file()]
    if not files:
        raise UserError(f"{path}: no task there; a GeneCIS file, or a folder with {', '.join(TASKS)}.json is needed")
    return {file.stem: [_template(entry, file) for entry in json.loads(file.read_text("utf-8"))] for file in files}


def crop_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return the part around an instance x, y, w, h, literally as the paper's code has it.

    Away from the borders it grows to the left and the top only. Edges are rounded at the end, as Pillow's crop does.
    """
    x, y, w, h = box
    left, top = max(0, x - DILATE * w), max(0, y - DILATE * h)
    right, bottom = min(width, left + (1 + DILATE) * w), min(height, top + (1 + DILATE) * h)
    return round(left), round(top), round(right), round(bottom)


def _template(entry: Mapping[str, Any], file: Path) -> Template:
    try:
        gallery = [_source(item) for item in (entry["target"], *entry["gallery"])]
        return Template(_source(entry["reference"]), tuple(gallery), entry["condition"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: an entry lacks {error}") from None


def _source(item: Mapping[str, Any]) -> tuple[str, Any]:
    """COCO's val2017 by number, whole; or Visual Genome by number, with a box."""
    if "val_image_id" in item:
        return f"{int(item['val_image_id']):012d}.jpg", None
    return f"{item['image_id']}.jpg", tuple(item["instance_bbox"])


def _load(root: Path, source: tuple[str, Any]) -> bytes:
    file, box = source
    if not (root / file).is_file():
        raise UserError(f"{root / file}: no such picture; say where they lie: --images")
    encoded = (root / file).read_bytes()
    if box is None:
        return encoded
    try:
        return cut(encoded, crop_box(box, *open_image(encoded).size), square=True)
    except Fault:
        return encoded  # left out and counted where it is decoded


def _ranks(queries: Tensor, images: Tensor, galleries: Sequence[Sequence[int]]) -> Ranks:
    """Rank the first of each gallery in it; galleries may differ in size."""
    longest = max(map(len, galleries))
    padded = torch.tensor([[*g, *[g[0]] * (longest - len(g))] for g in galleries])
    scores = torch.einsum("qd,qgd->qg", queries, images[padded])
    empty = torch.arange(longest) >= torch.tensor([len(g) for g in galleries])[:, None]
    return rank_of_class(scores.masked_fill(empty, -torch.inf), torch.zeros(len(galleries), dtype=torch.long))


EXAMPLES = """examples:
  mmclr eval conditional runs/clip --data genecis/focus_object.json --images coco/val2017
  mmclr eval conditional runs/clip --data genecis/ --images pictures/      (all four tasks, and their average)
"""


def _run(embedder: Embedder, tasks: Mapping[str, Sequence[Template]], args: argparse.Namespace) -> Result:
    path = Path(args.data)
    return run(embedder, tasks, args.images or path.parent, args.dataset or path.stem)


suite = Suite(
    "conditional", __doc__, EXAMPLES, run=_run, open=lambda args: read(Path(args.data)), add=lambda parser: None
)
main = suite.main
