"""Small modules on top of a tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmclr.config import ConfigError, check, nearest
from mmclr.heads.head import Head
from mmclr.heads.projection import Perceptron, Reweight
from mmclr.heads.whitening import Whiten

__all__ = ["HEADS", "Head", "HeadConfig", "build"]

HeadConfig = Reweight | Perceptron | Whiten
HEADS: dict[str, type[HeadConfig]] = {"reweight": Reweight, "mlp": Perceptron, "whiten": Whiten}


def build(tree: Mapping[str, Any], where: str = "head") -> HeadConfig:
    """Return the head that {use: name, its fields...} means; faults are ConfigErrors with the path `where`."""
    fields = dict(tree)
    name = fields.pop("use", None)
    if name not in HEADS:
        raise ConfigError(f"{where}.use: there is no head {name!r}{nearest(str(name), HEADS)}")
    found: HeadConfig = check(HEADS[name], fields, where)
    return found
