"""Evaluation sets outside of shards: a folder of class folders, a table of files, COCO's and Karpathy's captions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmclr.eval.sets.evaluation_set import PLAIN, EvalSet, Templates, counted, cut_captions

from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.shards.shards import IMAGES, Sample
from mmclr.data.tabular import rows, tables
from mmclr.data.tabular.rows import Row
from mmclr.errors import UserError


def folder(root: Path, *, name: str = "", classnames: Sequence[str] = (), templates: Templates = PLAIN) -> EvalSet:
    """Read ROOT/CLASS/image: classes are the sorted folders, `_` in their names a space, unless named otherwise."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if classnames and len(classnames) != len(folders):
        raise UserError(f"{root}: it has {len(folders)} class folders, but {len(classnames)} class names were given")
    found = [(path, number) for number, place in enumerate(folders) for path in _image_files(place)]
    names = list(classnames) or [place.name.replace("_", " ") for place in folders]
    labels = torch.tensor([number for _, number in found], dtype=torch.int64)
    keys = [str(path.relative_to(root)) for path, _ in found]
    return EvalSet(
        name or root.name,
        **_readers([path for path, _ in found], keys),
        keys=keys,
        labels=labels,
        classnames=names,
        templates=templates,
    )


def table(path: Path, *, images: Path | None = None, name: str = "", encoding: str = "") -> EvalSet:
    """Read a table with the columns filepath and title (open_clip's names); one row a caption."""
    captions = _Captions(path, images or path.parent)
    for row in tables.rows(path, ("filepath", "title"), encoding):
        captions.add(row, "filepath", "title")
    return captions.make(name or path.stem)


def captions_json(path: Path, *, images: Path | None = None, split: str = "test", name: str = "") -> EvalSet:
    """Read Karpathy's splits (images[].sentences[].raw, the images of `split`) or COCO's captions (all)."""
    tree = rows.read_json(path)
    captions = _Captions(path, images or path.parent)
    try:
        found = _coco(tree) if "annotations" in tree else _karpathy(tree, split, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: neither Karpathy's nor COCO's form of captions ({error!r})") from None
    for row in found:
        captions.add(row, "file", "caption")
    return captions.make(name or path.stem)


def _karpathy(tree: Any, split: str, path: Path) -> Iterator[Row]:
    """Return a row for each sentence, or for an image without one."""
    found = [rows.of_object(number, image) for number, image in enumerate(_list(tree["images"]), 1)]
    splits = sorted({str(row.values.get("split", split)) for row in found})
    if split not in splits:
        raise UserError(f"{path}: it has no split {split!r}; it has {', '.join(splits)}")
    return (each for row in found if row.values.get("split", split) == split for each in _sentences(row))


def _sentences(row: Row) -> Iterator[Row]:
    image, sentences = row.values, row.values.get("sentences")
    folder, file = image.get("filepath", ""), image.get("filename")
    if row.fault or not isinstance(folder, str) or not isinstance(file, str) or not isinstance(sentences, list):
        yield rows.bad_row(row.number, "an entry of images lacks filename or sentences")
        return
    for sentence in sentences:
        text = sentence.get("raw") if isinstance(sentence, dict) else None
        yield Row(row.number, {"file": str(Path(folder, file)), "caption": text})


def _coco(tree: Any) -> Iterator[Row]:
    """Return a row for each annotation."""
    images = [image for image in _list(tree["images"]) if isinstance(image, dict)]
    names = {str(image.get("id")): image.get("file_name") for image in images}
    for number, annotation in enumerate(_list(tree["annotations"]), 1):
        row = rows.of_object(number, annotation)
        file = names.get(str(row.values.get("image_id")))
        if row.fault or not isinstance(file, str):
            yield rows.bad_row(number, "the annotation's image_id is not that of an image with a file_name")
        else:
            yield Row(number, {"file": file, "caption": annotation.get("caption")})


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} in place of a list")
    return value


class _Captions:
    """Collects the captions of files below `root`; what cannot be used is counted, file and row."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self.ledger = Ledger()
        self.found: dict[str, list[str]] = {}
        self.bad: dict[str, tuple[Row, Fault]] = {}  # files without a good caption so far
        self.number: dict[str, int] = {}  # of the first row of each file

    def add(self, row: Row, file: str, caption: str) -> None:
        """Take a row's file and caption."""
        try:
            if row.fault:
                raise row.fault
            name = fields.caption(row.values.get(file), file)
        except Fault as fault:
            self.ledger.add([row.entry(self.path, fault)])
            return
        self.number.setdefault(name, row.number)
        lost: list[Fault] = []
        try:
            text = fields.caption(row.values.get(caption), caption)
            if not text.strip():
                raise Fault("empty_caption", f"{caption} has nothing but spaces")
            self.found.setdefault(name, []).extend(cut_captions([text], lost))
            self.ledger.add(row.entry(self.path, fault, name) for fault in lost)
        except Fault as fault:
            if name in self.bad:  # of one file's bad captions one may be the sample that is lost
                self._lose(*self.bad[name], name)
            self.bad[name] = (row, fault)

    def _lose(self, row: Row, fault: Fault, name: str) -> None:
        self.ledger.add([row.entry(self.path, Fault("lost_caption", fault.detail), name)])

    def make(self, name: str) -> EvalSet:
        """Make the retrieval set."""
        for file, (row, fault) in self.bad.items():
            if file in self.found:
                self._lose(row, fault, file)
            else:
                self.ledger.add([row.entry(self.path, fault, file)])
        missing = [file for file in self.found if not os.path.isfile(self.root / file)]
        if missing and len(missing) == len(self.found):
            raise UserError(
                f"{self.root / missing[0]}: no such image, and {len(missing) - 1} more; say where they lie: --images"
            )
        entry = Entry(str(self.path), 0, "", "missing_file", "no such image; say where they lie: --images")
        self.ledger.add(entry._replace(row=self.number[file], key=file) for file in missing)
        gone = set(missing)
        keys = [file for file in self.found if file not in gone]
        return EvalSet(
            name,
            **_readers([self.root / file for file in keys], keys),
            keys=keys,
            captions=[self.found[key] for key in keys],
            where=lambda i: entry._replace(row=self.number[keys[i]], key=keys[i]),
            **counted(self.ledger),
        )


def _readers(paths: Sequence[Path], keys: Sequence[str]) -> dict[str, Any]:
    """Return how a set reads its files: image by image, or with what lies beside each (KEY.json of KEY.tif)."""

    def sample(number: int, members: frozenset[str]) -> Sample:
        path = paths[number]
        ending = path.suffix.lower().lstrip(".")
        found = {ending if ending in members else "jpg": rows.read_image(path)}  # what it is its first bytes say
        beside = path.with_suffix(".json")
        if "json" in members and beside.is_file():
            found["json"] = rows.read_image(beside)
        return Sample(str(path), 0, keys[number], found)

    return {"read": lambda number: rows.read_image(paths[number]), "sample": sample}


def _image_files(place: Path) -> list[Path]:
    """Return the images in a folder; .npy where there are no others, for they may be anything."""
    files = sorted(path for path in place.rglob("*") if path.suffix)
    images = [path for path in files if path.suffix.lower().lstrip(".") in IMAGES]
    return images or [path for path in files if path.suffix.lower() == ".npy"]
