"""What two towers say of a batch: the same for the model in training and for the teacher that follows it."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor

from mmclr import vocabulary
from mmclr.batch_fields import SETS
from mmclr.models.two_tower import TwoTower

IMAGES, TEXTS = (vocabulary.names(provider="student", side=side) for side in ("image", "text"))
ALONE = {"image", *(name for name, row in SETS.items() if not row.letter)}  # of which a sample has one
BELOW = {name for name, row in SETS.items() if not row.projected}  # they stand last among what is seen


def see(
    model: TwoTower,
    batch: Any,
    wanted: Set[str],
    keep: Tensor | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return those of image, the pixel sets and view_tokens that are wanted.

    The tower sees all in one pass; of their patches those in keep [b, n, p], if given, whose n are `places`. Views
    whose tokens are wanted are seen whole. `prepare` makes of pixels what the tower takes; by itself it normalises.
    """
    out: dict[str, Tensor] = {}
    if "view_tokens" in wanted:
        views, tokens = model.encode_patches(model.normalise(batch.views.flatten(0, 1)))
        out["view_tokens"] = tokens.unflatten(0, batch.views.shape[:2])
        if keep is None:
            out["views"] = views.unflatten(0, batch.views.shape[:2])
    names = [name for name in batch.counts if name in wanted - out.keys()]
    if names:
        pixels, where = [batch.seen(name) for name in names], places(batch)
        counts = [part.shape[1] for part in pixels]
        kept = None if keep is None else torch.cat([keep[:, where[name]] for name in names], 1).flatten(0, 1)
        seen = _prepared(pixels, prepare or model.normalise)
        out.update(zip(names, _embed(model, seen, kept, counts, len(BELOW.intersection(names)))))
    return {name: out[name][:, 0] if name in ALONE else out[name] for name in out.keys() & wanted}


def places(batch: Any) -> dict[str, slice]:
    """Return where the image and each pixel set stand among all that can be seen of a sample."""
    found, at = {}, 0
    for name, count in batch.counts.items():
        found[name], at = slice(at, at + count), at + count
    return found


def _prepared(pixels: list[Tensor], prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Pixels [b, n, C, H, W] of several names -> what the tower takes of all, [b, N, C, H, W]."""
    if len({part.dtype for part in pixels}) == 1:
        pixels = [torch.cat(pixels, 1) if len(pixels) > 1 else pixels[0]]
    ready = [prepare(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in pixels]
    return torch.cat(ready, 1) if len(ready) > 1 else ready[0]


def _embed(model: TwoTower, seen: Tensor, keep: Tensor | None, counts: list[int], below: int) -> list[Tensor]:
    """Pixels [b, N, C, H, W], `counts` of each name -> their embeddings; of the last `below` names tower features."""
    pixels, size = seen.flatten(0, 1), seen.shape[:2]
    if not below:
        return [*model.encode_image(pixels, keep).unflatten(0, size).split(counts, 1)]
    features = model.vision_model(pixels, keep).unflatten(0, size).split(counts, 1)
    found: list[Tensor] = []
    if features[:-below]:
        shared = torch.cat(features[:-below], 1)
        found += model.project_image(shared.flatten(0, 1)).unflatten(0, shared.shape[:2]).split(counts[:-below], 1)
    return [*found, *features[-below:]]


def read(model: TwoTower, batch: Any, wanted: Set[str]) -> dict[str, Tensor]:
    """Return those of text, texts and text_views that are wanted, from one pass through the tower."""
    b = len(batch.weights)
    tokens, lengths = batch.tokens.unflatten(0, (b, -1)), batch.lengths.unflatten(0, (b, -1))  # [b, M, L], [b, M]
    captions = lengths.shape[1]
    if not wanted & {"text", "texts"}:
        tokens, lengths, captions = batch.text_view_tokens, batch.text_view_lengths, 0
    elif "text_views" in wanted:
        tokens = torch.cat([tokens, batch.text_view_tokens], 1)
        lengths = torch.cat([lengths, batch.text_view_lengths], 1)
    texts = model.encode_text(tokens.flatten(0, 1), lengths.flatten()).unflatten(0, lengths.shape)
    out = {"texts": texts[:, :captions], "text": texts[:, 0], "text_views": texts[:, captions:]}
    return {name: out[name] for name in out.keys() & wanted}
