"""Reweighters: what a sample counts in a term, told from its features. `clip: {reweight: {use: small_loss}}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmclr import plugins
from mmclr.config import ConfigError, check, nearest
from mmclr.reweighters.reweighter import REWEIGHTERS, Reweighter, factors

__all__ = ["Reweighter", "build", "catalogue", "factors"]


def catalogue() -> Mapping[str, type[Reweighter]]:
    """Return every reweighter by key: ours, found by walking this folder, and those of plugins."""
    return plugins.catalogue(__name__, REWEIGHTERS)


def build(tree: Mapping[str, Any] | Sequence[Mapping[str, Any]], where: str = "reweight") -> tuple[Reweighter, ...]:
    """Return the reweighters that {use: key, its fields...} or a list of such means.

    Raises ConfigError with the path `where`.
    """
    if isinstance(tree, Mapping):
        return (_build(tree, where),)
    return tuple(_build(one, f"{where}.{number}") for number, one in enumerate(tree))


def _build(tree: Mapping[str, Any], where: str) -> Reweighter:
    fields, known = dict(tree), catalogue()
    key = fields.pop("use", None)
    if key not in known:
        raise ConfigError(f"{where}.use: there is no reweighter {key!r}{nearest(str(key), known)}")
    return check(known[key], fields, where)
