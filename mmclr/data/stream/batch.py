"""What the loader hands to the trainer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmclr import parallel, vocabulary
from mmclr.data.samples.skipped import Entry

NO_TARGET = -100  # what torch's cross-entropy passes by


@dataclass
class Batch:
    """This rank's rows of a global batch. b rows, M captions per image, L tokens of the longest caption.

    V further views of each picture, T further forms of each first caption.

    A row of weight 0 whose picture and caption have no ids (-1) is blank, and no sample: it pads the last batch of an
    epoch (index -1, too), or stands for one that was skipped. A sample may have weight 0: it counts in no mean, and is
    still a negative of others.
    """

    pixels: Tensor  # uint8 [b, 3, H, W], in memory channels last
    tokens: Tensor  # int64 [b * M, L], padded on the right, the captions of an image side by side
    lengths: Tensor  # int64 [b * M], valid tokens, BOS and EOS counted
    image_id: Tensor  # int64 [b], equal for equal files
    caption_id: Tensor  # int64 [b], equal for equal (first) captions up to case and spaces
    label: Tensor  # int64 [b], -1 where there is none
    index: Tensor  # int64 [b], number of the sample in the dataset, -1 for none
    weights: Tensor  # float32 [b]
    keys: list[str]
    views: Tensor | None = None  # uint8 [b, V, 3, H, W], further views of each picture
    view_boxes: Tensor | None = None  # float32 [b, V, 4], left, top, right, bottom of each in shares of the picture
    text_view_tokens: Tensor | None = None  # int64 [b, T, L], further forms of each (first) caption
    text_view_lengths: Tensor | None = None  # int64 [b, T]
    clusters: Tensor | None = None  # int64 [b, C], nearest clusters of each picture, -1 where there is none
    faults: list[Entry] = field(default_factory=list)  # samples that could not be used on the way to these rows

    @property
    def real(self) -> Tensor:
        """Whether each row is a sample, bool [b]; false for blank ones."""
        names = ("weights", "index", *(name for name in vocabulary.IDS if getattr(self, name) is not None))
        known = vocabulary.real({name: getattr(self, name) for name in names})
        assert known is not None
        return known

    @property
    def caption_targets(self) -> Tensor:
        """The token that follows each token but the last, int64 [b, M, L - 1]; NO_TARGET behind a caption's end."""
        return self._by_image(self.tokens[:, 1:].masked_fill(~self._followed, NO_TARGET))

    @property
    def shares(self) -> Tensor:
        """What each sample counts in the mean over the global batch, [b]; all ranks must ask."""
        return parallel.shares(self.weights)

    @property
    def caption_shares(self) -> Tensor:
        """What each of these counts in the mean over all tokens of the global batch, [b, M, L - 1]; all ranks must ask.

        A token counts as its sample's weight says, so blank rows count nothing.
        """
        return parallel.shares(self._by_image(self._followed) * self.weights[:, None, None])

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU run beside its work."""
        return self._each(lambda tensor: tensor.pin_memory())

    def split(self, size: int) -> list[Batch]:
        """Cut the batch into consecutive ones of `size` rows (the last may have fewer), texts padded as before."""
        captions = len(self.lengths) // len(self.weights)
        parts = []
        for start in range(0, len(self.weights), size):
            rows = slice(start, start + size)
            texts = slice(start * captions, (start + size) * captions)
            cut = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
            cut = {
                name: v[texts if name in ("tokens", "lengths") else rows] for name, v in cut.items() if v is not None
            }
            parts.append(Batch(**{**cut, "faults": []}))
        return parts

    def take(self, rows: Tensor) -> Batch:
        """Return the batch of these rows, int64 [n], without its faults."""
        texts = (
            torch.arange(len(self.lengths), device=rows.device).unflatten(0, (len(self.weights), -1))[rows].flatten()
        )
        cut = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        cut = {
            name: x[texts if name in ("tokens", "lengths") else rows]
            for name, x in cut.items()
            if isinstance(x, Tensor)
        }
        return Batch(**cut, keys=[self.keys[row] for row in rows.tolist()])

    @property
    def _followed(self) -> Tensor:
        """Whether there is a valid token after each token but the last, [b * M, L - 1]."""
        places = torch.arange(1, self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]

    def _by_image(self, texts: Tensor) -> Tensor:
        return texts.unflatten(0, (len(self.weights), -1))

    def _each(self, action) -> Batch:  # type: ignore[no-untyped-def]
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: action(v) for k, v in tensors.items() if isinstance(v, Tensor)})
