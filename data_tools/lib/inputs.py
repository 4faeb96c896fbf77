"""Pairs that are not in shards yet: folders, tables, img2dataset's folders, datasets on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclr.config import nearest
from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Entry, Fault
from mmclr.data.shards.shards import IMAGES
from mmclr.data.tabular import tables
from mmclr.data.tabular.rows import Row
from mmclr.errors import UserError

Columns = tuple[str | Sequence[str], str]  # of the image, or of several images of one sample; of the caption
Stored = bytes | Path  # an image, or its file


@dataclass(frozen=True)
class Record:
    """One input. `fault` says why there is no sample in it."""

    images: list[Stored]
    captions: list[str]
    fields: dict[str, Any] = field(default_factory=dict)  # the rest, for the json member
    fault: Fault | None = None
    where: tuple[str, int] = ("", 0)  # the table and its row, or a file and 0
    lost: tuple[Fault, ...] = ()  # captions that cannot be used and images that are not there, beside others
    several: bool = False  # whether it may have several images

    def entry(self, fault: Fault) -> Entry:
        """Return the ledger's line for a fault of this record."""
        return Entry(*self.where, "", fault.reason, fault.detail)


def read_records(
    source: str, columns: Columns, encoding: str = "", images: Sequence[str] = IMAGES, items: bool = False
) -> Iterator[Record]:
    """Yield the records of `source` in an order that is always the same. Raises UserError.

    `images` are extensions; `items`: each folder in it is one record.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: there is no such file or folder")
    table = path.is_file() or (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if items and table:
        raise UserError(f"{source}: --items makes one sample of each folder of a folder, and this is a table")
    if not table:
        return (_items if items else _folder)(path, columns, encoding, images)
    if path.is_file() and path.suffix.lower() not in tables.KINDS:
        raise UserError(f"{source}: a folder, .csv, .tsv, .jsonl or .parquet is asked for, not {path.suffix or 'this'}")
    return _table(path, columns, encoding)


def _folder(path: Path, columns: Columns, encoding: str, images: Sequence[str]) -> Iterator[Record]:
    """Images with KEY.txt or KEY.json beside them, as img2dataset's `files` format; else named by their folder."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower().lstrip(".") in images and p.is_file())
    if not files:
        raise UserError(f"{path}: no image in this folder ({', '.join(images)})")
    for file in files:
        facts: dict[str, Any] = {"path": str(file.relative_to(path))}
        lost: list[Fault] = []
        try:
            captions = _beside(file, path, facts, columns, encoding, lost)
            yield Record([file], captions, facts, None, (str(file), 0), tuple(lost))
        except Fault as fault:
            yield Record([], [], facts, fault, (str(file), 0))


def _items(path: Path, columns: Columns, encoding: str, images: Sequence[str]) -> Iterator[Record]:
    """Folders with images in them, each of them one sample; captions beside or in the folder, or its name."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower().lstrip(".") in images and p.is_file())
    folders = {file.parent: list[Stored]() for file in files if file.parent != path}
    if not folders:
        raise UserError(f"{path}: no folder in it has an image ({', '.join(images)}); --items makes a sample of each")
    for file in files:
        if file.parent in folders:
            folders[file.parent].append(file)
    for folder, found in folders.items():
        facts: dict[str, Any] = {"path": str(folder.relative_to(path))}
        lost: list[Fault] = []
        try:
            text, beside = _of_item(folder, ".txt"), _of_item(folder, ".json")
            captions = _captions(text, beside, folder.name.replace("_", " "), facts, columns, encoding, lost)
            yield Record(found, captions, facts, None, (str(folder), 0), tuple(lost), several=True)
        except Fault as fault:
            yield Record([], [], facts, fault, (str(folder), 0))


def _of_item(folder: Path, ending: str) -> Path:
    """Return ITEM.txt beside the folder ITEM, or the one such file in it. Raises Fault where several are."""
    beside = folder.parent / f"{folder.name}{ending}"
    inside = sorted(p for p in folder.iterdir() if p.suffix == ending)
    if len(inside) > 1 and not beside.is_file():
        raise Fault("no_caption", f"{len(inside)} files {ending} in it, and no {beside.name} beside it says which")
    return inside[0] if inside and not beside.is_file() else beside


def _beside(
    file: Path, root: Path, facts: dict[str, Any], columns: Columns, encoding: str, lost: list[Fault]
) -> list[str]:
    """Return the captions of a file, and add what its KEY.json says to its facts. Raises Fault."""
    named = file.parent.name.replace("_", " ") if file.parent != root else None
    return _captions(file.with_suffix(".txt"), file.with_suffix(".json"), named, facts, columns, encoding, lost)


def _captions(
    text: Path,
    beside: Path,
    named: str | None,
    facts: dict[str, Any],
    columns: Columns,
    encoding: str,
    lost: list[Fault],
) -> list[str]:
    """Return the captions of a .txt, a field of a .json, or what a folder is named. Raises Fault."""
    if beside.is_file():
        found = fields.tree(_bytes(beside), beside.name)
        if not isinstance(found, dict):
            raise Fault("bad_text", f"{beside.name} is no object with names and values")
        facts |= found
    if text.is_file():
        data = _bytes(text)
        try:
            return [fields.text(data, text.name)]
        except Fault as fault:
            if not encoding:
                raise Fault(fault.reason, f"{fault.detail}; save it as UTF-8, or --encoding latin-1") from None
            return [fields.encodable(_decode(data, text.name, encoding), text.name)]
    found = fields.captions(facts.get(columns[1], named), columns[1], lost)
    if found is None:
        known = [name for name in facts if name != "path"]
        told = nearest(columns[1], known) if known else f", and no {beside.name}"
        raise Fault("no_caption", f"no {text.name} beside it, no field {columns[1]!r}{told}"[:300])
    return found


def _bytes(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(fields.JSON_BYTES + 1)  # more than any value may have is a fault
    except OSError as error:
        raise Fault("unreadable", f"{file.name}: {error.strerror or error}") from None


def _decode(data: bytes, name: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Fault("bad_text", f"{name} is not {encoding} at byte {error.start}") from None
    except LookupError:
        raise UserError(f"--encoding {encoding}: there is no such encoding") from None


def _table(path: Path, columns: Columns, encoding: str) -> Iterator[Record]:
    folder = path if path.is_dir() else path.parent
    for row in tables.rows(path, (*_names(columns), columns[1]), encoding):
        try:
            yield _record(path, folder, row, columns)
        except Fault as fault:
            yield Record([], [], row.values, fault, (str(path), row.number))


def _record(path: Path, folder: Path, row: Row, columns: Columns) -> Record:
    """Take the images and the captions out of a row. Raises Fault."""
    if row.fault is not None:
        raise row.fault
    names = _names(columns)
    listed = [row.values.get(name) for name in names]
    given = [(n, v) for n, value in zip(names, listed) for v in (value if isinstance(value, list) else [value])]
    images = [(name, _image(value, name, folder)) for name, value in given]
    several = len(names) > 1 or any(isinstance(value, list) for value in listed)
    absent = [name for name, image in images if image is None]
    lost = (
        [Fault("missing_image", f"it lacks {', '.join(absent)}"[:200])] if absent and len(absent) < len(images) else []
    )
    captions = fields.captions(row.values.get(columns[1]), columns[1], lost) or []
    rest = {name: value for name, value in row.values.items() if name not in names and _plain(value)}
    there, kept = [image for _, image in images if image is not None], [c for c in captions if c.strip()]
    return Record(there, kept, rest, None, (str(path), row.number), tuple(lost), several)


def _names(columns: Columns) -> list[str]:
    return [columns[0]] if isinstance(columns[0], str) else [*columns[0]]


def _image(value: Any, name: str, folder: Path) -> Stored | None:
    """Return what a column says of an image; None where that is nothing. Raises Fault."""
    if isinstance(value, dict):  # the image column of a Hugging Face dataset
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.strip():
        return folder / fields.encodable(value, name)
    if value is not None and not isinstance(value, (bytes, str)):
        raise Fault("no_image", f"{name} is a {type(value).__name__}, not a path or bytes")
    return value if isinstance(value, bytes) and value else None  # an empty text is none


def _plain(value: Any, inside: bool = False) -> bool:
    """Whether a value goes into the json member: text, numbers, and lists of them (which may hold objects)."""
    if isinstance(value, list):
        return all(_plain(entry, True) for entry in value)
    if isinstance(value, dict):
        return inside and all(isinstance(name, str) and _plain(entry, True) for name, entry in value.items())
    return isinstance(value, (str, int, float, bool)) or value is None


def json_bytes(tree: dict[str, Any]) -> bytes:
    """Return an object as a json member."""
    try:
        return json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half characters in fields that no one reads as text stay what they are
        return json.dumps(tree).encode()
