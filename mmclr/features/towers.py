"""What two towers say of a batch: the same for the model in training and for the teacher that follows it."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor

from mmclr import vocabulary
from mmclr.models.two_tower import TwoTower

IMAGES, TEXTS = (vocabulary.names(provider="student", side=side) for side in ("image", "text"))
PLACES = {"image": slice(0, 1), "views": slice(1, None)}  # of an image and its views among all that are seen of it


def see(model: TwoTower, batch: Any, wanted: Set[str], keep: Tensor | None = None) -> dict[str, Tensor]:
    """Return those of image, views and view_tokens that are wanted.

    The tower sees images and views in one pass; of their patches those in keep [b, 1 + V, p], if given. Views whose
    tokens are wanted are seen whole.
    """
    out: dict[str, Tensor] = {}
    if "view_tokens" in wanted:
        views, tokens = model.encode_patches(model.normalise(batch.views.flatten(0, 1)))
        out["view_tokens"] = tokens.unflatten(0, batch.views.shape[:2])
        if keep is None:
            out["views"] = views.unflatten(0, batch.views.shape[:2])
    names = [name for name in PLACES if name in wanted - out.keys()]
    if names:
        pixels = [batch.pixels[:, None] if name == "image" else batch.views for name in names]
        kept = None if keep is None else torch.cat([keep[:, PLACES[name]] for name in names], 1).flatten(0, 1)
        seen = torch.cat(pixels, 1) if len(pixels) > 1 else pixels[0]
        embedded = model.encode_image(model.normalise(seen.flatten(0, 1)), kept).unflatten(0, seen.shape[:2])
        out.update(zip(names, embedded.split([part.shape[1] for part in pixels], 1)))
    if "image" in out:
        out["image"] = out["image"][:, 0]
    return {name: out[name] for name in out.keys() & wanted}


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
