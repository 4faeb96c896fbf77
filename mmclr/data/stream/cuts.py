"""Cuts of a sample's images for a batch: the image itself, and the pixel sets that no maker makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

from mmclr.data.pixels.medium import Medium
from mmclr.data.settings import DataConfig

MORE = "more"  # the images behind the first, of samples that have several
IMAGES = -4  # stage of their draws


class Cut(NamedTuple):
    """One of the views that a batch has of each sample."""

    of: str  # "image", or the pixel set that it belongs to
    image: str  # which of the sample's images is cut
    augment: Any  # how, one of the medium's
    stage: tuple[int, ...]  # what its draws depend on, beside seed, epoch and sample


def cuts(config: DataConfig, medium: Medium) -> list[Cut]:
    """Return the cuts of a sample in the order in which they stand, those of a set side by side.

    The medium's augmentations are the image's, and then those of all views; a further member is cut as the image is.
    """
    how = iter(medium.augments)
    own = next(how)
    found = [Cut("image", "image", own, (0,))]
    members, made = config.members(), config.makers()
    for name, count in config.pixel_sets().items():
        stages = [(n + 1,) if name == "views" else (crc32(name.encode()), n) for n in range(count)]
        if name in members:
            found += [Cut(name, name, own, stage) for stage in stages]
        elif name not in made:
            found += [Cut(name, "image", next(how), stage) for stage in stages]
    return found + [Cut(MORE, f"image {n}", own, (IMAGES, n)) for n in range(1, config.image_slots())]


def places(cuts: Sequence[Cut]) -> dict[str, slice]:
    """Return where the cuts of the image and of each pixel set stand."""
    names = [cut.of for cut in cuts]
    return {name: slice(names.index(name), names.index(name) + names.count(name)) for name in dict.fromkeys(names)}
