"""The batch that the loader hands to the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mmclr import batch_fields, parallel, vocabulary
from mmclr.config import ConfigError
from mmclr.data.samples.skipped import Entry

TEXTS = ("tokens", "lengths")  # which have a row for each of an image's captions
NO_TARGET = -100  # what torch's cross-entropy passes by


class Maker(Protocol):
    """Makes a pixel set of the images' own pixels, where they are: a pure function of these and of `draws` [b]."""

    @property
    def count(self) -> int:
        """Number of copies of each image."""

    @property
    def says(self) -> str:
        """Name the batch feature that tells what was done to each copy, "" for none."""

    def pixels(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Pixels [b, C, H, W] -> copies [b, count, C, H, W], of their type or floats of which 1 is full intensity."""

    def said(self, draws: Tensor) -> Tensor:
        """Return what was done to each copy, [b, count]."""


@dataclass
class Batch:
    """This rank's rows of a global batch. b rows, M captions per image, L tokens of the longest caption.

    T further forms of each first caption, S sources of captions.

    A row of weight 0 whose image and caption have no ids (-1) is blank, and no sample: it pads the last batch of an
    epoch (index -1, too), or stands for one that was skipped. A sample may have weight 0: it counts in no mean, and is
    still a negative of others.
    """

    pixels: Tensor  # uint8 [b, 3, H, W], in memory channels last
    tokens: Tensor  # int64 [b * M, L], padded on the right, the captions of an image side by side
    lengths: Tensor  # int64 [b * M], valid tokens, BOS and EOS counted
    image_id: Tensor  # int64 [b], equal for equal files
    caption_id: Tensor  # int64 [b], equal for equal (first) captions up to case and spaces
    index: Tensor  # int64 [b], number of the sample in the dataset, -1 for none
    keys: list[str]
    fields: dict[str, Tensor]  # those of the table in `batch_fields` that the run has: label, weights, ...
    image_box: Tensor | None = None  # float32 [b, 4], left, top, right, bottom of what is seen in shares of the image
    more: Tensor | None = None  # uint8 [b, K - 1, 3, H, W], images behind the first, where samples have several
    image_counts: Tensor | None = None  # int64 [b], how many images each sample has, the first counted
    sets: dict[str, Tensor] = field(default_factory=dict)  # pixel sets [b, n, 3, H, W] by the names of SETS: views, ...
    made: Mapping[str, Maker] = field(default_factory=dict)  # those that are made when somebody asks for them
    draws: Tensor | None = None  # int64 [b], by which they are made: of seed, epoch and sample
    view_boxes: Tensor | None = None  # float32 [b, V, 4], left, top, right, bottom of each in shares of the image
    text_view_tokens: Tensor | None = None  # int64 [b, T, L], further forms of each (first) caption
    text_view_lengths: Tensor | None = None  # int64 [b, T]
    text_source_tokens: Tensor | None = (
        None  # int64 [b, S, L], a caption of each source, that of "" where there is none
    )
    text_source_lengths: Tensor | None = None  # int64 [b, S]
    has_text: Tensor | None = None  # bool [b, S], whether a sample has a caption of each source
    faults: list[Entry] = field(default_factory=list)  # samples that could not be used on the way to these rows

    def __getattr__(self, name: str) -> Tensor:
        """Return a batch field, or what a maker says, by its name. Raises ConfigError when the run has none of it."""
        for maker in self.__dict__.get("made", {}).values():
            if name and maker.says == name:
                return maker.said(self._drawn())
        if name not in batch_fields.FIELDS:
            raise AttributeError(f"a batch has no {name}")
        if name not in self.__dict__.get("fields", {}):
            raise ConfigError(batch_fields.lacking(name))
        found: Tensor = self.fields[name]
        return found

    @property
    def views(self) -> Tensor | None:
        """The further views of each image, uint8 [b, V, 3, H, W]."""
        return self.sets.get("views")

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of a sample: itself, those of each pixel set in the order of the table, and `more`."""
        own = {name: x.shape[1] for name, x in self.sets.items()} | {name: x.count for name, x in self.made.items()}
        more = {} if self.more is None else {"more": self.more.shape[1]}
        return {"image": 1} | {name: own[name] for name in batch_fields.SETS if name in own} | more

    def seen(self, name: str) -> Tensor:
        """Return the image, [b, 1, 3, H, W], or a pixel set, [b, n, 3, H, W], made now if a maker makes it."""
        if name == "image":
            return self.pixels[:, None]
        if name == "more" and self.more is not None:
            return self.more
        return self.sets[name] if name in self.sets else self.made[name].pixels(self.pixels, self._drawn())

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the batch has by name, its fields and pixel sets among them."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)} | self.fields | self.sets

    @property
    def real(self) -> Tensor:
        """Whether each row is a sample, bool [b]; false for blank ones."""
        known = vocabulary.real(
            {"index": self.index, "image_id": self.image_id, "caption_id": self.caption_id, **self.fields}
        )
        assert known is not None
        return known

    @property
    def caption_targets(self) -> Tensor:
        """The token that follows each token but the last, int64 [b, M, L - 1]; NO_TARGET behind a caption's end."""
        return self._by_image(self.tokens[:, 1:].masked_fill(~self._followed, NO_TARGET))

    @property
    def shares(self) -> Tensor:
        """Share of each sample in the mean over the global batch, [b]; all ranks must ask."""
        return parallel.shares(self.weights)

    @property
    def caption_shares(self) -> Tensor:
        """Share of each of these in the mean over all tokens of the global batch, [b, M, L - 1]; all ranks must ask.

        A token counts as its sample's weight says, so blank rows count nothing.
        """
        return parallel.shares(self._by_image(self._followed) * self.weights[:, None, None])

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._each(lambda x, name: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU run beside its work."""
        return self._each(lambda x, name: x.pin_memory())

    def split(self, size: int) -> list[Batch]:
        """Cut the batch into consecutive ones of `size` rows (the last may have fewer), texts padded as before."""
        captions = len(self.lengths) // len(self.index)
        parts = []
        for start in range(0, len(self.index), size):
            rows, texts = slice(start, start + size), slice(start * captions, (start + size) * captions)
            part = self._each(partial(_cut, rows=rows, texts=texts))
            parts.append(dataclasses.replace(part, keys=self.keys[rows], faults=[]))
        return parts

    def take(self, rows: Tensor) -> Batch:
        """Return the batch of these rows, int64 [n], without its faults."""
        places = torch.arange(len(self.lengths), device=rows.device)
        texts = places.unflatten(0, (len(self.index), -1))[rows].flatten()
        part = self._each(partial(_cut, rows=rows, texts=texts))
        return dataclasses.replace(part, keys=[self.keys[row] for row in rows.tolist()], faults=[])

    @property
    def _followed(self) -> Tensor:
        """Whether there is a valid token after each token but the last, [b * M, L - 1]."""
        places = torch.arange(1, self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]

    def _by_image(self, texts: Tensor) -> Tensor:
        return texts.unflatten(0, (len(self.index), -1))

    def _each(self, action: Callable[[Tensor, str], Tensor]) -> Batch:
        """Return the batch with action(tensor, its name) in the place of each tensor."""
        found = {name: action(x, name) for name, x in self.tensors().items()}
        fields, sets = ({name: found.pop(name) for name in own} for own in (self.fields, self.sets))
        return dataclasses.replace(self, **found, fields=fields, sets=sets)  # type: ignore[arg-type]

    def _drawn(self) -> Tensor:
        return self.index if self.draws is None else self.draws


def _cut(x: Tensor, name: str, rows: slice | Tensor, texts: slice | Tensor) -> Tensor:
    return x[texts if name in TEXTS else rows]
