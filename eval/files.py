"""Evaluation sets outside of shards: a folder of class folders, a table of files, COCO's and Karpathy's captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.sets import PLAIN, EvalSet, Templates, check_labels
from mmclr.data.shards import IMAGES
from mmclr.errors import UserError


def folder(root: Path, *, name: str = "", classnames: Sequence[str] = (), templates: Templates = PLAIN) -> EvalSet:
    """Read ROOT/CLASS/picture: classes are the sorted folders, `_` in their names a space, unless named otherwise."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if classnames and len(classnames) != len(folders):
        raise UserError(f"{root}: it has {len(folders)} class folders, but {len(classnames)} class names were given")
    found = [(path, number) for number, place in enumerate(folders) for path in _pictures(place)]
    names = list(classnames) or [place.name.replace("_", " ") for place in folders]
    labels = check_labels([number for _, number in found], [str(path) for path, _ in found], len(names), str(root))
    keys = [str(path.relative_to(root)) for path, _ in found]
    return EvalSet(name or root.name, _reader([path for path, _ in found]), keys, labels=labels, classnames=names,
                   templates=templates)  # fmt: skip


def table(path: Path, *, images: Path | None = None, name: str = "") -> EvalSet:
    """Read a .csv or .tsv with the columns filepath and title (open_clip's names); one row a caption."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    if rows and not {"filepath", "title"} <= rows[0].keys():
        raise UserError(f"{path}: its columns are {', '.join(rows[0])}; filepath and title are needed")
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row["filepath"], []).append(row["title"])
    return _captioned(name or path.stem, images or path.parent, captions)


def captions_json(path: Path, *, images: Path | None = None, split: str = "test", name: str = "") -> EvalSet:
    """Read Karpathy's splits (images[].sentences[].raw, the pictures of `split`) or COCO's captions (all)."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        captions = _coco(tree) if "annotations" in tree else _karpathy(tree, split, path)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: neither Karpathy's nor COCO's form of captions ({error!r})") from None
    return _captioned(name or path.stem, images or path.parent, captions)


def _karpathy(tree: Any, split: str, path: Path) -> dict[str, list[str]]:
    splits = sorted({image.get("split", split) for image in tree["images"]})
    if split not in splits:
        raise UserError(f"{path}: it has no split {split!r}; it has {', '.join(splits)}")
    return {
        str(Path(image.get("filepath", ""), image["filename"])): [sentence["raw"] for sentence in image["sentences"]]
        for image in tree["images"]
        if image.get("split", split) == split
    }


def _coco(tree: Any) -> dict[str, list[str]]:
    names = {image["id"]: image["file_name"] for image in tree["images"]}
    captions: dict[str, list[str]] = {}
    for annotation in tree["annotations"]:
        captions.setdefault(names[annotation["image_id"]], []).append(annotation["caption"])
    return captions


def _captioned(name: str, root: Path, captions: dict[str, list[str]]) -> EvalSet:
    """Make a retrieval set of files below `root`; a file that is missing is an error, not a smaller set."""
    missing = [file for file in captions if not (root / file).is_file()]
    if missing:
        raise UserError(
            f"{root / missing[0]}: no such picture, and {len(missing) - 1} more; say where they lie: --images"
        )
    return EvalSet(name, _reader([root / file for file in captions]), list(captions), captions=list(captions.values()))


def _reader(paths: Sequence[Path]) -> Any:
    return lambda i: paths[i].read_bytes()


def _pictures(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.suffix.lower().lstrip(".") in IMAGES)
