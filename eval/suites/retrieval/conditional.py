"""Find what is similar under a condition: GeneCIS, recall@1, 2, 3 in small galleries.

Vaze et al., GeneCIS: A Benchmark for General Conditional Image Similarity, CVPR 2023, arXiv 2306.07969. A query is a
reference image r and a condition text c, its gallery 10 to 15 images t, one of them right. Three ways to put the two
together: q = r (image_only), q = c (text_only), and q = (r + c) / |r + c| (image_plus_text); images rank by <q, t>.
Reduces to: image retrieval in a gallery for image_only, text-to-image retrieval in it for text_only.
Differs from the paper: r and c are unit vectors, as they leave the model; the paper mixes raw features. Its trained
combiner is not here.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import Ranks
from mmclr.eval.metrics.scores import rank_of_class
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import MAX_FAULTS, EvalSet, counted, text_hash
from mmclr.eval.sets.instances import Box, cut, rows_of
from mmclr.eval.suite import Suite, about
from torch import Tensor

from mmclr.data.pixels.decode import open_image
from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.tabular.rows import Row, read_image
from mmclr.data.tabular.tables import json_rows
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
    """One question: images are (file, box or None)."""

    reference: tuple[str, Any]
    gallery: tuple[tuple[str, Any], ...]  # the target first
    condition: str


def run(
    embedder: Embedder,
    tasks: Mapping[str, Sequence[Template]],
    images: Path,
    name: str,
    combiners: Mapping[str, Combine] = BASELINES,
    ledger: Ledger | None = None,
    max_faults: float = MAX_FAULTS,
) -> Result:
    """Measure each task with each combiner; the average over tasks is the mean of their recalls.

    A template without one of its images is left out and said, the image counted beside what `ledger` has.
    """
    began = time.perf_counter()
    sources = list(dict.fromkeys(s for ts in tasks.values() for t in ts for s in (t.reference, *t.gallery)))
    if not any(os.path.isfile(images / file) for file, _ in sources):
        raise UserError(f"{images / sources[0][0]}: no such image; say where they lie: --images")
    keys = [str(source) for source in sources]
    counts = counted(ledger or Ledger())
    data = EvalSet(name, lambda i: _load(images, sources[i]), keys, max_faults=max_faults, **counts).check()
    embedded = embedder.images(data)
    number = rows_of({source: i for i, source in enumerate(sources)}, embedded.data)
    whole = {task: [t for t in ts if all(s in number for s in (t.reference, *t.gallery))] for task, ts in tasks.items()}
    left_out = sum(map(len, tasks.values())) - sum(map(len, whole.values()))
    if empty := [task for task, templates in whole.items() if not templates]:
        raise UserError(f"{name}: no template of {empty[0]} has all of its images; say where they lie: --images")
    tasks, everything = whole, [t for templates in whole.values() for t in templates]
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
            m.mean or 0.0
            for key, m in measured.items()
            if key.endswith(f"_{how}_recall@1") and isinstance(m, Measurement)
        ]
        measured[f"average_{how}_recall@1"] = sum(recalls) / len(recalls)
    return Result.of(
        measured,
        task="conditional_retrieval",
        ties={"templates": ties},
        sizes={"images": len(embedded.data), "templates": len(everything), "tasks": len(tasks)},
        notes=[f"{left_out} templates are left out: an image of theirs cannot be used"] if left_out else [],
        seconds=round(time.perf_counter() - began, 3),
        **about(embedder, embedded, prompts=text_hash("\0".join(t.condition for t in everything))),
    )


def read(path: Path, ledger: Ledger | None = None) -> dict[str, list[Template]]:
    """Read one task's JSON, or a folder with those of several. An entry that cannot be used is counted in `ledger`."""
    ledger = ledger if ledger is not None else Ledger()
    files = [path] if path.is_file() else [f for f in (path / f"{task}.json" for task in TASKS) if f.is_file()]
    if not files:
        raise UserError(f"{path}: no task there; a GeneCIS file, or a folder with {', '.join(TASKS)}.json is needed")
    tasks = {}
    for file in files:
        found = tasks[file.stem] = list[Template]()
        for row in json_rows(file):
            try:
                found.append(_template(row))
            except Fault as fault:
                ledger.add([row.entry(file, fault)])
        if not found:
            raise UserError("\n".join([f"{file}: no entry can be used", *ledger.lines(met="left out")]))
    return tasks


def crop_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return the part around an instance x, y, w, h, literally as the paper's code has it.

    Away from the borders it grows to the left and the top only. Edges are rounded at the end, as Pillow's crop does.
    """
    x, y, w, h = box
    left, top = max(0, x - DILATE * w), max(0, y - DILATE * h)
    right, bottom = min(width, left + (1 + DILATE) * w), min(height, top + (1 + DILATE) * h)
    return round(left), round(top), round(right), round(bottom)


def _template(row: Row) -> Template:
    if row.fault:
        raise row.fault
    entry = row.values
    try:
        gallery = [_source(item) for item in (entry["target"], *entry["gallery"])]
        return Template(_source(entry["reference"]), tuple(gallery), fields.caption(entry["condition"], "condition"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Fault("bad_row", f"an entry lacks {error}") from None


def _source(item: Mapping[str, Any]) -> tuple[str, Any]:
    """COCO's val2017 by number, whole; or Visual Genome by number, with a box."""
    if "val_image_id" in item:
        return f"{int(item['val_image_id']):012d}.jpg", None
    left, top, width, height = map(float, item["instance_bbox"])
    if not all(map(math.isfinite, (left, top, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"a box with an area: {item['instance_bbox']}")
    return f"{fields.caption(item['image_id'], 'image_id')}.jpg", tuple(item["instance_bbox"])


def _load(root: Path, source: tuple[str, Any]) -> bytes:
    file, box = source
    try:
        encoded = read_image(root / file)
    except Fault as fault:
        said = f"{root / file}: say where images lie: --images"
        raise (Fault(fault.reason, said) if fault.reason == "missing_file" else fault) from None
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
  mmclr eval conditional runs/clip --data genecis/ --images images/      (all four tasks, and their average)
"""


def _open(args: argparse.Namespace) -> tuple[dict[str, list[Template]], Ledger]:
    ledger = Ledger()
    return read(Path(args.data), ledger), ledger


def _run(embedder: Embedder, found: tuple[dict[str, list[Template]], Ledger], args: argparse.Namespace) -> Result:
    path, (tasks, ledger) = Path(args.data), found
    return run(
        embedder,
        tasks,
        args.images or path.parent,
        args.dataset or path.stem,
        ledger=ledger,
        max_faults=args.max_faults,
    )


suite = Suite("conditional", __doc__, EXAMPLES, run=_run, open=_open, add=lambda parser: None)
main = suite.main
