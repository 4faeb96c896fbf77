"""Where pairs come from when they are not in shards yet: folders, tables, img2dataset's folders, datasets on disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclr.config import nearest
from mmclr.data.shards import IMAGES
from mmclr.errors import UserError


@dataclass(frozen=True)
class Record:
    """One input. `image` is bytes or the path of a file; `error` says why there is no sample in it."""

    image: bytes | Path | None
    captions: list[str]
    fields: dict[str, Any] = field(default_factory=dict)  # the rest, for the json member
    error: str = ""


Columns = tuple[str, str]  # of the picture, of the caption


def read_records(source: str, columns: Columns) -> Iterator[Record]:
    """Yield the records of `source` in an order that is always the same. Raises UserError."""
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: there is no such file or folder")
    if path.is_dir():
        return (_dataset if (path / "state.json").is_file() else _folder)(path, columns)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{source}: a folder, .csv, .tsv, .jsonl or .parquet is asked for, not {path.suffix or 'this'}")
    return reader(path, columns)


def _folder(path: Path, columns: Columns) -> Iterator[Record]:
    """Pictures with KEY.txt or KEY.json beside them, as img2dataset's `files` format; else named by their folder."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower().lstrip(".") in IMAGES and p.is_file())
    if not files:
        raise UserError(f"{path}: no picture in this folder")
    for file in files:
        fields = {"path": str(file.relative_to(path))}
        text, beside = file.with_suffix(".txt"), file.with_suffix(".json")
        if beside.is_file():
            try:
                fields |= json.loads(beside.read_text("utf-8"))
            except ValueError as error:
                yield Record(None, [], error=f"{beside}: not JSON: {error}")
                continue
        if text.is_file():
            captions = [text.read_text("utf-8", "replace")]
        else:
            named = file.parent.name if file.parent != path else ""
            captions = _captions(fields.get(columns[1], named.replace("_", " ")))
        yield Record(file, captions, fields)


def _delimited(separator: str) -> Callable[[Path, Columns], Iterator[Record]]:
    def read(path: Path, columns: Columns) -> Iterator[Record]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter=separator)
            check = _Columns(path, columns, list(table.fieldnames or []))
            for row in table:
                yield check.record(dict(row))

    return read


def _lines(path: Path, columns: Columns) -> Iterator[Record]:
    with open(path, encoding="utf-8") as file:
        check = None
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield Record(None, [], error=f"{path}:{number}: not JSON: {error}")
                continue
            check = check or _Columns(path, columns, list(row))
            yield check.record(row)


def _parquet(path: Path, columns: Columns) -> Iterator[Record]:
    file = _pyarrow("pyarrow.parquet").ParquetFile(path)
    check = _Columns(path, columns, file.schema_arrow.names)
    for part in file.iter_batches(batch_size=256):
        yield from map(check.record, part.to_pylist())


def _dataset(path: Path, columns: Columns) -> Iterator[Record]:
    """A Hugging Face dataset as its save_to_disk writes it: Arrow streams named in state.json."""
    names = [file["filename"] for file in json.loads((path / "state.json").read_text())["_data_files"]]
    arrow, check = _pyarrow("pyarrow"), None
    for name in names:
        with arrow.memory_map(str(path / name)) as source:
            stream = arrow.ipc.open_stream(source)
            check = check or _Columns(path, columns, stream.schema.names)
            for part in stream:
                yield from map(check.record, part.to_pylist())


_READERS = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".parquet": _parquet,
}


class _Columns:
    """Takes the picture and the caption out of rows. Raises UserError when a column is not there."""

    def __init__(self, path: Path, columns: Columns, names: list[str]) -> None:
        self.folder = path if path.is_dir() else path.parent
        self.image, self.caption = columns
        for option, name in zip(("--image", "--caption"), columns):
            if name not in names:
                raise UserError(f"{path}: no column {name!r} for {option}{nearest(name, names)}")

    def record(self, row: dict[str, Any]) -> Record:
        image = row[self.image]
        if isinstance(image, dict):  # the picture column of a Hugging Face dataset
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and image:
            image = self.folder / image
        rest = {name: value for name, value in row.items() if name not in (self.image, None) and _plain(value)}
        return Record(image or None, _captions(row[self.caption]), rest)


def _captions(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(text) for text in values if text is not None and str(text).strip()]


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list)) or value is None


def _pyarrow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError("Parquet files and datasets on disk need pyarrow: pip install 'mmclr[tables]'") from error
