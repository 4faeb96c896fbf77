"""From what a user names to an evaluation set: the kind of source is told by what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval import shards
from eval.sets import PLAIN, EvalSet, Templates
from mmclr.errors import UserError


def open_set(
    data: str,
    *,
    name: str = "",
    split: str = "test",
    caption: str = "txt",
    label: str = "",
    classnames: Sequence[str] = (),
    templates: Templates | None = None,
    language: str = "en",
) -> EvalSet:
    """Open a set; `templates` and `language` replace what the source says itself."""
    found = _open(data, name, split, caption, label, classnames, templates)
    changes = {"language": language, **({"templates": templates} if templates else {})}
    return replace(found, **changes)


def _open(
    data: str,
    name: str,
    split: str,
    caption: str,
    label: str,
    classnames: Sequence[str],
    templates: Templates | None,
) -> EvalSet:
    path = Path(data)
    if path.is_dir() and list(path.glob("*/nshards.txt")) + list(path.glob("classnames.txt")):
        return shards.benchmark(path, split, name)
    if path.is_dir():
        tars = sorted(map(str, path.glob("*.tar")))
        if not tars:
            raise UserError(f"{data}: neither shards nor CLIP_benchmark's layout there (no *.tar, no */nshards.txt)")
        return _ordinary(tars, name or path.name, caption, label, classnames, templates)
    return _ordinary(data, name, caption, label, classnames, templates)


def _ordinary(
    urls: str | list[str],
    name: str,
    caption: str,
    label: str,
    classnames: Sequence[str],
    templates: Templates | None,
) -> EvalSet:
    caption = "" if label else caption  # a classification needs no captions
    return shards.ordinary(urls, caption=caption, label=label, classnames=classnames,
                           templates=templates or PLAIN, name=name)  # fmt: skip
