"""What the images of shards are, as the command line says it: photographs, or deep images of some bands."""

from __future__ import annotations

import argparse
from typing import Any

from mmclr.config import check
from mmclr.data.pixels.choose import Square, choose
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.pixels.medium import Medium
from mmclr.errors import UserError
from mmclr.storage import yaml_text

MOST = 64  # bands of a model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --channels and --intensity."""
    parser.add_argument(
        "--channels",
        type=int,
        default=3,
        metavar="N",
        help="bands of the images, as model.image.channels: 1 for grey of any depth (default 3, photographs)",
    )
    parser.add_argument(
        "--intensity",
        default="",
        metavar="YAML",
        help="which numbers of deep images become 0 and 1, as data.intensity: '{low: 0, high: 4095}', "
        "'{percentile: [1, 99]}', '{low: json:FIELD, high: json:FIELD}'",
    )


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Return channels and intensity (None for none) of the command line. Raises UserError."""
    if not 1 <= args.channels <= MOST:
        raise UserError(f"--channels {args.channels}: a model has 1 to {MOST}")
    tree = yaml_text.of_argument(args.intensity, only_text=False) if args.intensity else None
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"--intensity {args.intensity}: write it as '{{low: 0, high: 4095}}'")
    return {
        "channels": args.channels,
        "intensity": None if tree is None else check(Intensity, tree, "--intensity").tree(),
    }


def medium(args: argparse.Namespace, size: int = 1, max_pixels: int = MAX_PIXELS) -> Medium:
    """Return how such images are read, as views of `size`. Raises UserError."""
    return choose(Square(size, **chosen(args)), max_pixels=max_pixels)
