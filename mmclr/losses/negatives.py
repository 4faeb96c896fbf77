"""The rule of what counts as a negative to an anchor."""

from typing import Literal

from torch import Tensor

from mmclr.losses.algebra import Either, Equal, Mask, Pairs

Duplicates = Literal["mask", "negative"]


def not_negatives(duplicates: Duplicates, image_id: Tensor, caption_id: Tensor, *others: Tensor) -> Mask:
    """Return the pairs to leave out: a sample's own, and with "mask" those of equal images or equal captions.

    `others` are further ids, int64 [b], whose equals are left out in any case.
    """
    equal = [Equal(ids) for ids in (*others, *((image_id, caption_id) if duplicates == "mask" else ()))]
    more = [mask for mask in equal if not mask.only_pairs]  # a comparison per pair only where it finds something
    return Pairs() if not more else more[0] if len(more) == 1 else Either(*more)
