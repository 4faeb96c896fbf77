"""The kind of images in shards, as the command line says it: photographs, deep images of some bands, or arrays."""

from __future__ import annotations

import argparse
from typing import Any

from mmclr.config import check
from mmclr.data.pixels.array import Array
from mmclr.data.pixels.choose import Square, choose
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.pixels.medium import Medium
from mmclr.errors import UserError
from mmclr.models.config import ArrayConfig
from mmclr.storage import yaml_text

MOST = 64  # bands of a model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --channels, --intensity and --array."""
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
    parser.add_argument(
        "--array",
        default="",
        metavar="YAML",
        help="arrays (.npy) in place of images, as model.image.array: '{channels: 6, length: 100}'; length 1 for rows",
    )


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Return channels and intensity (None for none), or array, of the command line. Raises UserError."""
    if args.array:
        if args.intensity or args.channels != 3:
            raise UserError("--array: arrays have neither --channels nor --intensity; leave these out")
        return {"array": _tree("--array", args.array, "{channels: 6, length: 100}")}
    if not 1 <= args.channels <= MOST:
        raise UserError(f"--channels {args.channels}: a model has 1 to {MOST}")
    tree = _tree("--intensity", args.intensity, "{low: 0, high: 4095}") if args.intensity else None
    return {
        "channels": args.channels,
        "intensity": None if tree is None else check(Intensity, tree, "--intensity").tree(),
    }


def medium(args: argparse.Namespace, size: int = 1, max_pixels: int = MAX_PIXELS) -> Medium:
    """Return how such images are read, as views of `size`, or such arrays. Raises UserError."""
    told = chosen(args)
    if "array" in told:
        kind = check(ArrayConfig, told["array"], "--array")
        return Array(kind, [0.0] * kind.channels, [1.0] * kind.channels, max_pixels)
    return choose(Square(size, **told), max_pixels=max_pixels)


def packed(args: argparse.Namespace) -> tuple[Medium | None, dict[str, Any]]:
    """Return how what is to be packed as it is will be read, and what was chosen; None and {} for photographs.

    A range may yet be left open, or to each sample: training says it.
    """
    told = chosen(args)
    if told == {"channels": 3, "intensity": None}:
        return None, {}
    if "array" in told:
        return medium(args), told
    intensity = told["intensity"]
    if intensity is None or any(isinstance(value, str) for value in intensity.values()):
        intensity = {"percentile": [0, 100]}
    return choose(Square(1, channels=told["channels"], intensity=intensity)), told


def _tree(name: str, text: str, example: str) -> dict[str, Any]:
    found = yaml_text.of_argument(text, only_text=False)
    if not isinstance(found, dict):
        raise UserError(f"{name} {text}: write it as '{example}'")
    return found
