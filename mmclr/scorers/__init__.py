"""Scorers: what number a pair of an image and a text gets. `mmclr data score` writes it as a column beside shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmclr import plugins
from mmclr.config import ConfigError, check, nearest
from mmclr.scorers.scorer import SCORERS, Scorer

__all__ = ["Scorer", "build", "catalogue"]


def catalogue() -> Mapping[str, type[Scorer]]:
    """Return every scorer by key: ours, found by walking this folder, and those of plugins."""
    return plugins.catalogue(__name__, SCORERS)


def build(key: str, fields: Mapping[str, Any], where: str = "") -> Scorer:
    """Return the scorer `key` with its fields. Raises ConfigError with the path `where` (by default the key)."""
    known = catalogue()
    if key not in known:
        raise ConfigError(f"there is no scorer {key!r}{nearest(key, known)}")
    return check(known[key], fields, where or key)
