"""All images of a sample for tools: the members that the command line names, read as training reads data.images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mmclr.data.pixels.medium import Medium
from mmclr.data.samples import absent
from mmclr.data.samples.captions import extensions
from mmclr.data.samples.images import Images, usable, wrong_images
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import ShardIndex
from mmclr.data.shards.shards import Sample, Shards
from mmclr.errors import UserError

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --image-members."""
    parser.add_argument(
        "--image-members",
        "--image_members",
        nargs="+",
        metavar="MEMBER",
        help="the images of a sample, as data.images: front.jpg back.jpg, or json:FIELD with a list of such "
        "(default: a sample has one image, of any name that images have)",
    )


def chosen(args: argparse.Namespace) -> Images:
    """Return which members are images. Raises UserError."""
    names = args.image_members or [""]
    if args.image_members and (wrong := wrong_images(names, 1)):
        raise UserError(f"--image-members {' '.join(names)}: {wrong}")
    return Images(names)


def open_shards(
    indices: Sequence[ShardIndex],
    images: Images,
    usual: Sequence[str],
    *,
    caption: str = "",
    beside: Sequence[str] = (),
    ledger: Ledger | None = None,
    whole: bool = False,
) -> Shards:
    """Open shards so that all images of a sample are read. Raises UserError where no sample has any, or a caption.

    `usual` are the extensions of images, `beside` further members; `whole` as in Shards.
    """
    members = images.members((name for index in indices for name in index.extensions), usual)
    captions = extensions([caption])
    shards = Shards(indices, captions, (*beside, *images.beside), ledger, members, whole=whole)
    shards.several = images.several
    absent.check([shards], {"--caption": [caption], "--image-members": images.addresses})
    return shards


def each(sample: Sample, images: Images, medium: Medium, make: Callable[[bytes, Any], T], lost: list[Fault]) -> list[T]:
    """Return what `make` makes of each image of a sample: of its bytes, and of it opened. Raises Fault.

    Of several images those that cannot be used are `lost` while one can.
    """
    files = images.of(sample, medium.members, lost)
    return usable(files, lambda data: make(data, medium.open(data, sample.members)), lost)
