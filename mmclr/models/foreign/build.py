"""Towers of other libraries in place of ours: described once, built, and filled with their weights.

A tower's whole architecture is written into the model's config, so that a checkpoint needs neither the folder nor the
name that it came from. Only architectures that the library itself has are built; code in a folder is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mmclr.config import merge
from mmclr.errors import UserError
from mmclr.models.config import Foreign, ImageConfig, TextConfig
from mmclr.models.foreign.libraries import library
from mmclr.models.formats import find
from mmclr.models.presets import is_prefixed
from mmclr.models.tower import Tower

INSIDE = ("width", "layers", "heads", "mlp", "patch", "vocab")  # of these a config has no say


def describe(part: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Return `tree` (of an ImageConfig or TextConfig) with what the tower at its foreign.source says beneath it."""
    source: str = tree["foreign"]["source"]
    name = source.partition(":")[0]
    own = library(name).describe(part, _folder(source))
    own["foreign"]["library"] = name
    found = {**merge(own, tree), **{key: own[key] for key in INSIDE if key in own}}
    if part == "image" and "mean" not in found:
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


def fill_tower(part: str, tower: nn.Module, foreign: Foreign) -> None:
    """Load the weights at foreign.source into a tower that was built from its architecture."""
    library(foreign.library).fill_tower(part, tower, _folder(foreign.source))


def _folder(source: str) -> Path:
    """Return the folder that a source names, after the name of its library."""
    name = source.partition(":")[2]
    return find.find(name if Path(name).is_dir() or not is_prefixed(source) else source)
