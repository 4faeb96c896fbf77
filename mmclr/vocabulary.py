"""THE page: every feature that an objective may ask for by naming an argument of its forward.

Letters for shapes, used in the whole tree: B global batch, b local batch (this rank's rows), D embedding,
L text tokens, P patches, M captions per image, V views of an image, X sharpened and Q blurred copies of it, T forms of
a caption, K prototypes, R reference features, H the image tower's width below its projection, N tokens of the
vocabulary, W the caption decoder's width, C clusters of an image, G tags and O boxes of one, S sources of captions. A
new feature is one row here and a provider in `features/` that computes it; nothing else changes. Those that come with
a sample from the data are rows of `batch_fields`, and so are those of what the image tower sees beside the image
itself.

A dense feature has a row per token, so it is never kept for a batch that is larger than memory. An objective that asks
for one must be a sum over samples whose weights (a feature of the batch, like `caption_shares`) already say what each
counts in the global batch, and says so with cost="local". It is computed micro-batch by micro-batch, together with the
backward, and its values add up to that of the whole (`train.gradient_cache`). One that compares samples by dense
features says full_batch=True, and a run with micro_batch refuses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from mmclr import batch_fields, random_features
from mmclr.errors import UserError, nearest
from mmclr.random_features import Sizes, boxes, ids, index, normal, number, shares, states, targets, token_shares, unit

Side = Literal["image", "text", "none"]


@dataclass(frozen=True)
class Feature:
    """One row of the vocabulary."""

    shape: str  # letters of the legend; rows that start with b belong to samples
    provider: str  # the key of who provides it: batch, trainer, or one of `mmclr.features`
    meaning: str
    # a realistic random value, for laws and dry runs; a function made twice is never equal to itself
    make: Callable[[Sizes, torch.Generator], Tensor] = field(compare=False)
    side: Side = "none"  # of which of the pair it tells
    gradient: bool = False  # whether a loss reaches weights through it
    dense: bool = False  # a row per token: exists for one micro-batch at a time
    pixels: str = ""  # of which pixel set it tells (`batch_fields.SETS`)

    @property
    def per_sample(self) -> bool:
        """Whether the first dimension is this rank's samples."""
        return self.shape.startswith("[b")

    @property
    def embedding(self) -> bool:
        """Whether it holds vectors of the space in which images and texts are compared, and not one per token."""
        return self.shape.endswith("D]") and not self.dense


IDS = ("image_id", "caption_id", "label", "clusters")  # what says of a row which sample it is, -1 for nothing


def real(found: Mapping[str, Tensor]) -> Tensor | None:
    """Return which rows are samples, bool [b], from those features of the batch that there are; None if none says it.

    A row is blank, not a sample, if its weight is 0 and it has no number (index -1), or nothing else that makes it a
    sample (image_id, caption_id, label and clusters all -1). So a sample of weight 0 is told by any of these.
    """
    weights, index = found.get("weights"), found.get("index")
    if "real" in found or weights is None:
        return found.get("real", None if index is None else index >= 0)
    ids = [found[name].flatten(1) if found[name].dim() > 1 else found[name][:, None] for name in IDS if name in found]
    known = torch.cat(ids, 1).ne(-1).any(1) if ids else torch.zeros_like(weights, dtype=torch.bool)
    if index is not None:
        known = (known if ids else True) & (index >= 0)
    return known | (weights != 0)


def names(**facts: Any) -> frozenset[str]:
    """Return the features of which all these facts are true: `names(provider="student", side="image")`."""
    return frozenset(n for n, f in FEATURES.items() if all(getattr(f, key) == value for key, value in facts.items()))


def of_sets(sets: Iterable[str], provider: str, dense: bool = True) -> set[str]:
    """Return the features that a provider makes of these pixel sets; `dense`: those with a row per token, too."""
    found = {name for name in names(provider=provider) if FEATURES[name].pixels in {*sets}}
    return {name for name in found if dense or not FEATURES[name].dense}


def add(name: str, feature: Feature) -> None:
    """Add a row, for a provider from outside of this package. Raises UserError where another has the name.

    The same row may come again, as it does when a notebook's cell is run twice.
    """
    if _ROWS.setdefault(name, feature) != feature:
        raise UserError(f"there is a feature {name!r} already ({_ROWS[name].meaning}); give yours another name")


def asked(function: Callable[..., object], who: str) -> tuple[str, ...]:
    """Return the argument names of a method, self aside. Raises TypeError for one that is no feature."""
    names = tuple(inspect.signature(function).parameters)[1:]
    for name in names:
        if name not in FEATURES:
            raise TypeError(f"{who} asks for {name!r}, which is not in mmclr.vocabulary{nearest(name, FEATURES)}")
    return names


def dense(names: Iterable[str]) -> list[str]:
    """Return those of the features that have a row per token."""
    return [name for name in names if FEATURES[name].dense]


def example(name: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Return a random value of the feature `name`: unit vectors where it is an embedding, ids with repeats."""
    return FEATURES[name].make(sizes, generator)


def is_float(name: str) -> bool:
    """Whether the values of the feature `name` are fractions, not whole numbers or flags."""
    return example(name, Sizes(b=2), torch.Generator()).is_floating_point()


def _batch(name: str) -> Feature:
    """Return the row of a batch field."""
    row = batch_fields.FIELDS[name]
    kind = batch_fields.KINDS[row.kind]

    def make(sizes: Sizes, generator: torch.Generator) -> Tensor:
        return batch_fields.example(kind, sizes.shape(kind.letters), sizes.dtype, generator)

    return Feature(f"[{', '.join(kind.letters)}]", "batch", row.meaning, make)


def _seen(name: str, provider: str) -> Feature:
    """Return the row of what a provider makes of a pixel set."""
    row = batch_fields.SETS[name]
    letters = ["b", *row.letter, "R" if provider == "frozen" else "D" if row.projected else "H"]
    what = "unit-norm embeddings" if row.projected else "features below the projection"
    learnt, of = provider == "student", {"ema": "the teacher", "frozen": "a frozen model"}.get(provider)
    said = f"{what} of {row.meaning}" if learnt else f"{name} of {of}; no gradient"
    make = (unit if row.projected else normal)(*letters)
    return Feature(f"[{', '.join(letters)}]", provider, said, make, side="image", gradient=learnt, pixels=name)


def _sets(provider: str, prefix: str = "") -> dict[str, Feature]:
    """Return the rows of all pixel sets; an average and a frozen model tell only of what is projected."""
    sets = {n: s for n, s in batch_fields.SETS.items() if s.projected or provider == "student"}
    return {prefix + name: _seen(name, provider) for name in sets}


_ROWS: dict[str, Feature] = {
    "image": Feature(
        "[b, D]",
        "student",
        "unit-norm image embedding of the model in training",
        unit("b", "D"),
        side="image",
        gradient=True,
    ),
    "text": Feature(
        "[b, D]", "student", "unit-norm embedding of the (first) caption", unit("b", "D"), side="text", gradient=True
    ),
    "texts": Feature(
        "[b, M, D]",
        "student",
        "unit-norm embeddings of all M captions of each image",
        unit("b", "M", "D"),
        side="text",
        gradient=True,
    ),
    "scale": Feature(
        "[]", "student", "inverse temperature exp(logit_scale), learnt and clamped", number(1 / 0.07), gradient=True
    ),
    "bias": Feature("[]", "student", "additive logit bias of the sigmoid loss, learnt", number(-10.0), gradient=True),
    **_sets("student"),
    "text_views": Feature(
        "[b, T, D]",
        "student",
        "unit-norm embeddings of the data.text_views further forms of the (first) caption",
        unit("b", "T", "D"),
        side="text",
        gradient=True,
    ),
    "text_sources": Feature(
        "[b, S, D]",
        "student",
        "unit-norm embeddings of a caption of each of data.text_sources; that of an empty text where there is none",
        unit("b", "S", "D"),
        side="text",
        gradient=True,
    ),
    "view_tokens": Feature(
        "[b, V, P, D]",
        "student",
        "each patch of the data.views further views, normed and projected as the class token is, not unit-norm",
        normal("b", "V", "P", "D"),
        side="image",
        gradient=True,
        dense=True,
        pixels="views",
    ),
    "ema_image": Feature(
        "[b, D]",
        "ema",
        "image of the teacher, a running average of the model's weights; no gradient",
        unit("b", "D"),
        side="image",
    ),
    "ema_text": Feature("[b, D]", "ema", "text of the teacher; no gradient", unit("b", "D"), side="text"),
    **_sets("ema", "ema_"),
    "ema_text_views": Feature(
        "[b, T, D]", "ema", "text_views of the teacher; no gradient", unit("b", "T", "D"), side="text"
    ),
    "ema_view_tokens": Feature(
        "[b, V, P, D]",
        "ema",
        "view_tokens of the teacher; no gradient",
        normal("b", "V", "P", "D"),
        side="image",
        dense=True,
        pixels="views",
    ),
    "frozen_image": Feature(
        "[b, R]", "frozen", "unit-norm image features of a frozen model; no gradient", unit("b", "R"), side="image"
    ),
    **_sets("frozen", "frozen_"),
    "frozen_text": Feature(
        "[b, R]", "frozen", "unit-norm text features of a frozen model; no gradient", unit("b", "R"), side="text"
    ),
    "image_id": Feature("[b]", "batch", "int64, equal for equal images (hash of the file's bytes)", ids),
    "caption_id": Feature("[b]", "batch", "int64, equal for equal captions (hash of the text that is trained on)", ids),
    **{name: _batch(name) for name in batch_fields.FIELDS},
    "index": Feature("[b]", "batch", "int64 position of the sample in the dataset, stable over epochs", index),
    "real": Feature(
        "[b]",
        "batch",
        "bool, whether the row is a sample: false where it fills up the batch; no objective sees those",
        lambda sizes, generator: torch.ones(sizes.b, dtype=torch.bool),
    ),
    "shares": Feature("[b]", "batch", "share of the sample in the mean over the global batch, by its weight", shares),
    "image_box": Feature(
        "[b, 4]",
        "batch",
        "left, top, right, bottom of what is seen in shares of the whole image; left > right where it is mirrored",
        lambda sizes, generator: boxes(sizes, generator)[:, 0],
    ),
    "view_boxes": Feature(
        "[b, V, 4]",
        "batch",
        "left, top, right, bottom of each further view in shares of its image; left > right where it is mirrored",
        boxes,
        pixels="views",
    ),
    "has_text": Feature(
        "[b, S]",
        "batch",
        "bool, whether the sample has a caption of each of data.text_sources",
        random_features.present,
    ),
    "blur": Feature(
        "[b, Q]",
        "batch",
        "width of the Gaussian blur of each of blurred, in pixels at an image size of 224",
        random_features.widths,
        pixels="blurred",
    ),
    "turn": Feature(
        "[b, 1]",
        "batch",
        "int64, which of Facts.turns turns was done to turned: quarter turns clockwise, or the jigsaw's number",
        random_features.turns,
        pixels="turned",
    ),
    "caption_states": Feature(
        "[b, M, L-1, W]",
        "student",
        "the caption decoder's state at each token but the last",
        states,
        gradient=True,
        dense=True,
    ),
    "caption_words": Feature(
        "[N, W]",
        "student",
        "the caption decoder's vector of each token: logits are dot products",
        normal("N", "W"),
        gradient=True,
    ),
    "caption_targets": Feature("[b, M, L-1]", "batch", "int64 token that follows each token but the last", targets),
    "caption_shares": Feature(
        "[b, M, L-1]",
        "batch",
        "share of each of these in the mean over all tokens of the global batch, by its "
        "sample's weight; 0 behind a caption's end",
        token_shares,
    ),
    "progress": Feature("[]", "trainer", "share of the training that is done, 0 to 1", number(0.25)),
}
FEATURES: Mapping[str, Feature] = MappingProxyType(_ROWS)  # read only: see `add`
