"""Small modules on top of a tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmclr import plugins
from mmclr.config import ConfigError, check, nearest
from mmclr.heads.head import HEADS, Head, HeadConfig

__all__ = ["Head", "HeadConfig", "build", "catalogue"]


def catalogue() -> Mapping[str, type[HeadConfig]]:
    """Return every kind of head by key: ours, found by walking this folder, and those of plugins."""
    return plugins.catalogue(__name__, HEADS)


def build(tree: Mapping[str, Any], where: str = "head") -> HeadConfig:
    """Return the head that {use: name, its fields...} means; faults are ConfigErrors with the path `where`."""
    fields, known = dict(tree), catalogue()
    name = fields.pop("use", None)
    if name not in known:
        raise ConfigError(f"{where}.use: there is no head {name!r}{nearest(str(name), known)}")
    return check(known[name], fields, where)
