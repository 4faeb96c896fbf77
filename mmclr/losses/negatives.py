"""What is a negative to an anchor, and what is not."""

from typing import Literal

from torch import Tensor

from mmclr.losses.algebra import Either, Equal, Mask, Pairs

Duplicates = Literal["mask", "negative"]


def not_negatives(duplicates: Duplicates, image_id: Tensor, caption_id: Tensor) -> Mask:
    """Return the pairs to leave out: a sample's own, and with "mask" those of equal pictures or equal captions."""
    return Either(Equal(image_id), Equal(caption_id)) if duplicates == "mask" else Pairs()
