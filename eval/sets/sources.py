"""From what a user names to an evaluation set: the kind of source is told by what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmclr.eval.sets import files, layout, shards
from mmclr.eval.sets.evaluation_set import MAX_FAULTS, PLAIN, EvalSet, Templates

from mmclr.data.samples.images import MOST, Names, wrong_images
from mmclr.data.tabular.tables import KINDS
from mmclr.errors import UserError


def open_set(
    data: str,
    *,
    name: str = "",
    split: str = "test",
    caption: str | None = None,
    label: str = "",
    target: str = "",
    classnames: Sequence[str] = (),
    templates: Templates | None = None,
    images: Path | None = None,
    language: str = "en",
    encoding: str = "",
    max_faults: float = MAX_FAULTS,
    image_members: Names = "",
) -> EvalSet:
    """Open shards, CLIP_benchmark's layout, a folder of class folders, a .csv or a .json of captions.

    Captions of shards are in `caption`; where none is named, in txt, and with a `label` or `target` they are not read.
    `templates` and `language` replace what the source says; `encoding` is a .csv's. Raises UserError, also when more
    than `max_faults` of the samples are damaged (judged from the thousandth on); fewer are left out and counted.
    """
    if not data.strip():
        raise UserError("--data names no set: shards, a folder, a table or a .json of captions")
    path, ours = Path(data), templates or PLAIN
    if wrong := wrong_images(image_members, MOST if image_members else 0):
        raise UserError(f"--image-members: {wrong}")
    if path.is_dir() and (list(path.glob("*/nshards.txt")) or (path / "classnames.txt").is_file()):
        found = _renamed(layout.read(path, split, name), classnames)
    elif path.is_dir() and not list(path.glob("*.tar")):
        if not any(place.is_dir() for place in path.iterdir()):
            raise UserError(
                f"{data}: neither shards (*.tar), nor CLIP_benchmark's layout, nor folders of classes there; "
                f"mmclr data pack {data} OUT writes shards from images and captions"
            )
        found = files.folder(path, name=name, classnames=classnames, templates=ours)
    elif path.suffix.lower() in KINDS and path.is_file():
        found = files.table(path, images=images, name=name, encoding=encoding)
    elif path.suffix.lower() == ".json" and path.is_file():
        found = files.captions_json(path, images=images, split=split, name=name)
    else:
        wanted = caption if caption is not None else "" if label or target else "txt"
        urls = sorted(map(str, path.glob("*.tar"))) if path.is_dir() else data
        found = shards.ordinary(
            urls,
            caption=wanted,
            label=label,
            target=target,
            classnames=classnames,
            templates=ours,
            name=name or (path.name if path.is_dir() else ""),
            images=image_members,
        )
    _check_named(found, data, target, image_members)
    found = replace(found, language=language, max_faults=max_faults, templates=templates or found.templates)
    return found.check()


def _check_named(found: EvalSet, data: str, target: str, image_members: Names) -> None:
    """Raise UserError where what was named is something that only shards have, and the set is none of them."""
    if image_members and found.items is None:
        raise UserError(f"--image-members: only shards name the images of a sample; mmclr data pack writes {data} so")
    if target and found.targets is None:
        raise UserError(
            f"{data}: a target ({target}) is read from shards; mmclr data pack makes some, and keeps numbers"
        )


def _renamed(data: EvalSet, classnames: Sequence[str]) -> EvalSet:
    """Give the classes of a set other names, where some are given: in another language, say."""
    if not classnames or data.labels is None:
        return data
    if len(classnames) != len(data.classnames):
        raise UserError(
            f"{data.name}: it has {len(data.classnames)} classes, but {len(classnames)} class names were given"
        )
    return replace(data, classnames=list(classnames))
