"""Features of two towers for a batch: the same for the model in training and for the teacher that follows it."""

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
        out.update(_see(model, batch, names, keep, prepare or model.normalise))
    return {name: out[name][:, 0] if name in ALONE else out[name] for name in out.keys() & wanted}


def _see(
    model: TwoTower, batch: Any, names: list[str], keep: Tensor | None, prepare: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the embeddings [b, n, D] of these names. Of several images of a sample those that are there are seen."""
    pixels, where = [batch.seen(name) for name in names], places(batch)
    counts = [part.shape[1] for part in pixels]
    kept = None if keep is None else torch.cat([keep[:, where[name]] for name in names], 1).flatten(0, 1)
    ready = _prepared(pixels, prepare).flatten(0, 1)
    several = "image" in names and batch.more is not None and model.config.image_pool != "first"
    if several:
        there = torch.arange(batch.more.shape[1], device=ready.device) < batch.image_counts[:, None] - 1
        ready = torch.cat([ready, prepare(batch.more[there])])
        kept = None if keep is None or kept is None else torch.cat([kept, keep[:, where["more"]][there]])
    found, others = _embed(model, ready, kept, len(batch.pixels), counts, len(BELOW.intersection(names)))
    out = dict(zip(names, found))
    if several:
        pooled = model.pool_others(out["image"][:, 0], others, batch.image_counts, batch.more.shape[1])
        out["image"] = pooled[:, None]
    return out


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


def _embed(
    model: TwoTower, pixels: Tensor, keep: Tensor | None, b: int, counts: list[int], below: int
) -> tuple[list[Tensor], Tensor]:
    """Return the embeddings of each name [b, n, D], of the last `below` names tower features, and those of the rest.

    Pixels [b * N + m, C, H, W] are those of each sample's N, of which each name has its of `counts`, and m others.
    """
    whole = b * sum(counts)
    if not below:
        rows = model.encode_image(pixels, keep)
        return [*rows[:whole].unflatten(0, (b, -1)).split(counts, 1)], rows[whole:]
    features = model.vision_model(pixels, keep)
    named, others = features[:whole].unflatten(0, (b, -1)).split(counts, 1), features[whole:]
    shared = [part.flatten(0, 1) for part in named[:-below]]
    if not shared:
        return [*named[-below:]], others
    rows = model.project_image(torch.cat([*shared, others]))
    ends = [len(part) for part in shared]
    parts = [part.unflatten(0, (b, -1)) for part in rows[: sum(ends)].split(ends)]
    return [*parts, *named[-below:]], rows[sum(ends) :]


def read(model: TwoTower, batch: Any, wanted: Set[str]) -> dict[str, Tensor]:
    """Return those of text, texts, text_views and text_sources that are wanted, from one pass through the tower."""
    b, parts = len(batch.weights), {}
    if wanted & {"text", "texts"}:
        parts["texts"] = batch.tokens.unflatten(0, (b, -1)), batch.lengths.unflatten(0, (b, -1))  # [b, M, L], [b, M]
    if "text_views" in wanted:
        parts["text_views"] = batch.text_view_tokens, batch.text_view_lengths
    if "text_sources" in wanted:
        parts["text_sources"] = batch.text_source_tokens, batch.text_source_lengths
    tokens, lengths = (torch.cat(each, 1) if len(each) > 1 else each[0] for each in zip(*parts.values()))
    texts = model.encode_text(tokens.flatten(0, 1), lengths.flatten()).unflatten(0, lengths.shape)
    out = dict(zip(parts, texts.split([own.shape[1] for _, own in parts.values()], 1)))
    if "texts" in out:
        out["text"] = out["texts"][:, 0]
    return {name: out[name] for name in out.keys() & wanted}
