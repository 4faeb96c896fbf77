"""Tell captions apart that share their words: SugarCrepe, Winoground, ARO and the like.

A tie is wrong, and counted: a model that gives every caption one score knows nothing, and must not pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import MAX_FAULTS, text_hash
from mmclr.eval.sets.instances import Instance, images_of, read, rows_of
from mmclr.eval.suite import Suite, about

from mmclr.data.samples.skipped import Ledger
from mmclr.errors import UserError


def run(
    embedder: Embedder,
    instances: Sequence[Instance],
    images: Path,
    name: str,
    ledger: Ledger | None = None,
    max_faults: float = MAX_FAULTS,
) -> Result:
    """Measure text_acc (each image prefers its caption), image_acc (each caption its image) and acc (both).

    With one image to an instance there is only text_acc. An instance without one of its images is left out and
    said, its image counted beside what `ledger` has.
    """
    if not instances:
        raise UserError(f"{name}: there is no instance")
    began = time.perf_counter()
    data, numbers = images_of(instances, images, name, ledger, max_faults)
    embedded = embedder.images(data)
    number, all_of_them = rows_of(numbers, embedded.data), len(instances)
    instances = [instance for instance in instances if all(source in number for source in instance.images)]
    if not instances:
        raise UserError(f"{name}: no instance has all of its images; say where they lie: --images")
    texts = list(dict.fromkeys(text for instance in instances for text in instance.captions))
    vectors, row = embedder.texts(texts, "captions"), {text: i for i, text in enumerate(texts)}
    outcomes = []
    for instance in instances:
        image = embedded.images[[number[source] for source in instance.images]]
        outcomes.append(judge(image @ vectors[[row[text] for text in instance.captions]].T))
    text_right, image_right, tied = (np.array(column) for column in zip(*outcomes))
    groups = np.array([instance.group for instance in instances])
    strata = np.unique(groups, return_inverse=True)[1] if len(set(groups)) > 1 else None
    chosen = {"text_acc": text_right}
    if max(len(instance.images) for instance in instances) > 1:
        chosen |= {"image_acc": image_right, "acc": text_right & image_right}
    said = about(embedder, embedded, prompts=text_hash("\0".join(texts)))
    left_out = all_of_them - len(instances)
    notes = ["a tie counts as wrong"] + (["mean over groups of the means inside them"] if strata is not None else [])
    notes += [f"{left_out} instances are left out: an image of theirs cannot be used"] if left_out else []
    return Result.of(
        {key: Measurement(values, strata=strata, unit="instances") for key, values in chosen.items()},
        task="image_caption_selection",
        ties={"instances": int(tied.sum())},
        sizes={"instances": len(instances), "images": len(embedded.data), "groups": len(set(groups))},
        notes=notes,
        seconds=round(time.perf_counter() - began, 3),
        **said,
    )


def judge(scores: torch.Tensor) -> tuple[bool, bool, bool]:
    """Say whether all images pick their caption, all captions their image, and whether a tie was met.

    scores [I, C]: image i belongs to caption i; the captions beyond I are wrong for all.
    """
    own = scores.diagonal()[: len(scores)]
    apart = ~torch.eye(*scores.shape, dtype=torch.bool)
    rival_text = scores.where(apart, torch.tensor(-torch.inf)).max(1).values
    rival_image = scores.where(apart, torch.tensor(-torch.inf))[:, : len(scores)].max(0).values
    tied = bool((own == rival_text).any() or (own == rival_image).any())
    return bool((own > rival_text).all()), bool((own > rival_image).all()), tied


EXAMPLES = """examples:
  mmclr eval compositional runs/clip --data sugar_crepe/swap_obj.json --images coco/val2017
  mmclr eval compositional runs/clip --data winoground/examples.jsonl --images winoground/images
  mmclr eval compositional runs/clip --data visual_genome_relation.json --images vg/      (ARO; boxes are cut out)
  mmclr eval compositional runs/clip --data mine.jsonl      ({"images": [..], "captions": [right ones first, ..]})
"""


def _open(args: argparse.Namespace) -> tuple[list[Instance], Ledger]:
    ledger = Ledger()
    return read(Path(args.data), ledger), ledger


def _run(embedder: Embedder, found: tuple[list[Instance], Ledger], args: argparse.Namespace) -> Result:
    path, (instances, ledger) = Path(args.data), found
    return run(embedder, instances, args.images or path.parent, args.dataset or path.stem, ledger, args.max_faults)


suite = Suite("compositional", __doc__, EXAMPLES, run=_run, open=_open, add=lambda parser: None)
main = suite.main
