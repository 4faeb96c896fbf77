"""Where pairs come from when they are not in shards yet: folders, tables, img2dataset's folders, datasets on disk."""

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

Columns = tuple[str, str]  # of the image, of the caption


@dataclass(frozen=True)
class Record:
    """One input. `image` is bytes or the path of a file; `fault` says why there is no sample in it."""

    image: bytes | Path | None
    captions: list[str]
    fields: dict[str, Any] = field(default_factory=dict)  # the rest, for the json member
    fault: Fault | None = None
    where: tuple[str, int] = ("", 0)  # the table and its row, or a file and 0
    lost: tuple[Fault, ...] = ()  # captions that cannot be used, beside others

    def entry(self, fault: Fault) -> Entry:
        """Return the ledger's line for a fault of this record."""
        return Entry(*self.where, "", fault.reason, fault.detail)


def read_records(source: str, columns: Columns, encoding: str = "", images: Sequence[str] = IMAGES) -> Iterator[Record]:
    """Yield the records of `source` in an order that is always the same; `images` are extensions. Raises UserError."""
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: there is no such file or folder")
    table = path.is_file() or (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if not table:
        return _folder(path, columns, encoding, images)
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
            yield Record(file, captions, facts, None, (str(file), 0), tuple(lost))
        except Fault as fault:
            yield Record(None, [], facts, fault, (str(file), 0))


def _beside(
    file: Path, root: Path, facts: dict[str, Any], columns: Columns, encoding: str, lost: list[Fault]
) -> list[str]:
    """Return the captions of a file, and add what its KEY.json says to its facts. Raises Fault."""
    text, beside = file.with_suffix(".txt"), file.with_suffix(".json")
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
    named = file.parent.name.replace("_", " ") if file.parent != root else None
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
    for row in tables.rows(path, columns, encoding):
        try:
            yield _record(path, folder, row, columns)
        except Fault as fault:
            yield Record(None, [], row.values, fault, (str(path), row.number))


def _record(path: Path, folder: Path, row: Row, columns: Columns) -> Record:
    """Take the image and the captions out of a row. Raises Fault."""
    if row.fault is not None:
        raise row.fault
    image = row.values.get(columns[0])
    if isinstance(image, dict):  # the image column of a Hugging Face dataset
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and image.strip():
        image = folder / fields.encodable(image, columns[0])
    elif image is not None and not isinstance(image, (bytes, str)):
        raise Fault("no_image", f"{columns[0]} is a {type(image).__name__}, not a path or bytes")
    lost: list[Fault] = []
    captions = fields.captions(row.values.get(columns[1]), columns[1], lost) or []
    rest = {name: value for name, value in row.values.items() if name != columns[0] and _plain(value)}
    given = image if isinstance(image, (bytes, Path)) else None  # an empty text is none
    return Record(given or None, [c for c in captions if c.strip()], rest, None, (str(path), row.number), tuple(lost))


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
