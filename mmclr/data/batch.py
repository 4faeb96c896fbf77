"""What the loader hands to the trainer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmclr.data.ledger import Entry


@dataclass
class Batch:
    """This rank's rows of a global batch. b rows, M captions per image, L tokens of the longest caption.

    A row of weight 0 is blank: it pads the last batch of an epoch (index -1), or stands for a sample that was
    skipped.
    """

    pixels: Tensor  # uint8 [b, 3, H, W], in memory channels last
    tokens: Tensor  # int64 [b * M, L], padded on the right, the captions of an image side by side
    lengths: Tensor  # int64 [b * M], valid tokens, BOS and EOS counted
    image_id: Tensor  # int64 [b], equal for equal files
    caption_id: Tensor  # int64 [b], equal for equal (first) captions up to case and spaces
    label: Tensor  # int64 [b], -1 where there is none
    index: Tensor  # int64 [b], number of the sample in the dataset
    weights: Tensor  # float32 [b]
    keys: list[str]
    views: Tensor | None = None  # uint8 [b, V, 3, H, W], further views of each picture
    faults: list[Entry] = field(default_factory=list)  # samples that could not be used on the way to these rows

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

    def _each(self, action) -> Batch:  # type: ignore[no-untyped-def]
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: action(v) for k, v in tensors.items() if isinstance(v, Tensor)})
