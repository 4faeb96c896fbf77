"""A row of a table, and the files that rows come from: what is the same for every kind of table."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmclr.config import nearest
from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Entry, Fault
from mmclr.errors import UserError

SHOWN = 20  # names of columns in a message
FILE = 1 << 30  # bytes of a file that is read whole
HALF = re.compile("[\ud800-\udfff]")  # half a character; U+DC80 to U+DCFF stand for bytes that are no UTF-8


class Row(NamedTuple):
    """One row: `number` is the line where it begins, or its place among the rows, from 1 on."""

    number: int
    values: dict[str, Any]
    fault: Fault | None = None

    def entry(self, path: str | Path, fault: Fault, key: str = "") -> Entry:
        """Return the ledger's line for a fault of this row."""
        return Entry(str(path), self.number, key, fault.reason, fault.detail)


def bad_row(number: int, what: str) -> Row:
    """Return a row that cannot be used."""
    return Row(number, {}, Fault("bad_row", what))


def of_object(number: int, value: Any) -> Row:
    """Return a JSON object as a row; anything else is a fault."""
    return Row(number, value) if isinstance(value, dict) else bad_row(number, "it is no object with names and values")


def check_file(path: Path) -> None:
    """Raise UserError unless there is a file with something in it."""
    if path.is_dir():
        raise UserError(f"{path}: a folder, but a file is asked for")
    if not path.is_file():
        raise UserError(f"{path}: no such file{nearest(path.name, sorted(p.name for p in path.parent.glob('*')))}")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")


def check_columns(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    """Raise UserError when a table lacks one of the columns, or has it twice."""
    for name in columns:
        if names.count(name) > 1:
            raise UserError(f"{path}: {names.count(name)} columns are called {name!r}; rename all but one of them")
        if name not in names:
            known = ", ".join(known[:40] for known in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise UserError(
                f"{path}: no column {name!r}{nearest(name, names[:1000])}; its columns are {known or 'none'}; "
                f"{' and '.join(columns)} are needed"
            )


def encoding_of(path: Path, head: bytes, wanted: str = "") -> str:
    """Return what a byte order mark says, otherwise what is wanted, otherwise UTF-8. Raises UserError."""
    marked = next((name for mark, name in fields.MARKS.items() if head.startswith(mark)), "")
    try:
        return marked or codecs.lookup(wanted or "utf-8").name
    except LookupError:
        raise UserError(f"{path}: there is no encoding {wanted!r}") from None


def read_image(path: Path) -> bytes:
    """Return an image file. Raises Fault, before it is read where it is too large."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise Fault("unreadable", f"{path} is no file")
        fields.check_image(path.stat().st_size, str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise Fault("missing_file", str(path)) from None
    except (OSError, ValueError) as error:
        raise Fault("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_text(path: Path, encoding: str = "") -> str:
    """Return a text file that is read whole. Raises UserError."""
    check_file(path)
    if path.stat().st_size > FILE:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; a file that is read whole has at most {FILE:,}")
    data = path.read_bytes()
    try:
        return data.decode(encoding_of(path, data[:4], encoding))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: {not_utf8(data[error.start], error.start)}") from None


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises UserError."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: too many brackets within each other to be read as JSON") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def not_utf8(byte: int, at: int | None = None) -> str:
    """Say that a byte is no UTF-8, and what to do."""
    where = "" if at is None else f" at byte {at}"
    return f"not UTF-8 (0x{byte:02x}{where}); save the file as UTF-8, or say what it is in where there is --encoding"
