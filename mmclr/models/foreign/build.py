"""Towers of other libraries in place of ours: described once, built, and filled with their weights.

A tower's whole architecture is written into the model's config, so that a checkpoint needs neither the folder nor the
name that it came from. Only architectures that the library itself has are built; code in a folder is never run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from mmclr.config import merge
from mmclr.errors import UserError
from mmclr.models import rechannel
from mmclr.models.config import Foreign, ImageConfig, TextConfig
from mmclr.models.foreign.libraries import ADDED, library
from mmclr.models.formats import find
from mmclr.models.formats.weights import load_weights
from mmclr.models.presets import is_prefixed
from mmclr.models.tower import Tower

INSIDE = ("width", "layers", "heads", "mlp", "patch", "vocab")  # of these a config has no say


def describe(part: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Return `tree` (of an ImageConfig or TextConfig) with what the tower at its foreign.source says beneath it."""
    source: str = tree["foreign"]["source"]
    name = source.partition(":")[0]
    own = library(name).describe(part, _folder(source))
    own["foreign"]["library"] = name
    if part == "image" and other_channels(tree, own):
        own = {key: value for key, value in own.items() if key not in ("mean", "std")}
    found = {**merge(own, tree), **{key: own[key] for key in INSIDE if key in own}}
    if part == "image" and "mean" not in found and not other_channels(tree, own):
        raise UserError(f"{source}: it does not say how pixels are normalised; set model.image.mean and .std")
    return found


def image_tower(c: ImageConfig) -> Tower:
    """Build the image tower that c.foreign describes, with random weights."""
    assert c.foreign is not None
    tower: Tower = library(c.foreign.library).Image(c)
    return tower


def text_tower(c: TextConfig) -> Tower:
    """Build the text tower that c.foreign describes, with random weights."""
    assert c.foreign is not None
    tower: Tower = library(c.foreign.library).Text(c)
    return tower


def other_channels(tree: dict[str, Any], below: dict[str, Any]) -> bool:
    """Whether a tree of an ImageConfig asks for other channels than the one beneath it has."""
    return bool(tree.get("channels", n := below.get("channels", 3)) != n)


def fill_tower(part: str, tower: nn.Module, foreign: Foreign, image: ImageConfig | None = None) -> None:
    """Load the weights at foreign.source into a tower that was built from its architecture.

    `image` is the tower's config, if it is one of images: for other channels than those of the source its weights are
    taken over as `rechannel` says. Raises UserError where they cannot be.
    """
    own, folder = library(foreign.library), _folder(foreign.source)
    there = own.describe(part, folder) if image is not None and image.channels != 3 else {}
    if image is None or (channels := there.get("channels", 3)) == image.channels:
        own.fill_tower(part, tower, folder)
        return
    if "mean" not in there:
        raise UserError(
            f"{foreign.source}: it does not say how the pixels that it was trained with were normalised, so its "
            f"weights cannot be taken for {image.channels} channels; set model.image.foreign.trained: false"
        )
    rechannel.refuse_unknown(channels, image.channels, foreign.source)
    mean, std = tuple(there["mean"]), tuple(there["std"])
    source = own.Image(dataclasses.replace(image, channels=channels, mean=mean, std=std))
    own.fill_tower(part, source, folder)
    scales = rechannel.Scale(mean, std), rechannel.Scale(image.mean, image.std)
    made = rechannel.rechannelled(source.state_dict(), source, *scales, source.called)
    load_weights(tower, made, foreign.source)


def _folder(source: str) -> Path:
    """Return the folder that a source names, after the name of its library; of a plugin's library whatever it names."""
    name = source.partition(":")[2]
    if source.partition(":")[0] in ADDED:
        return Path(name)
    return find.find(name if Path(name).is_dir() or not is_prefixed(source) else source)
