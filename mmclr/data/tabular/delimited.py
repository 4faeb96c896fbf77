"""Rows of .csv and .tsv, line by line: a row that is broken costs itself and never those after it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mmclr.data.samples.skipped import Fault
from mmclr.data.shards.shards import IMAGES
from mmclr.data.tabular.rows import HALF, Row, bad_row, check_columns, encoding_of, not_utf8
from mmclr.errors import UserError

LINE = 1 << 24  # characters of a line, and of a row with its line breaks
SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Lines:
    """The lines of a text file, counted; bytes that are no UTF-8 stay in them as half characters (surrogateescape)."""

    def __init__(self, path: Path, raw: BinaryIO, encoding: str, newline: str | None) -> None:
        self.path, self.number = path, 0
        self._back: list[str] = []
        encoding = encoding_of(path, raw.read(4), encoding)
        raw.seek(0)
        errors = (
            "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass" if "16" in encoding else "strict"
        )
        self._file = io.TextIOWrapper(raw, encoding, errors, newline)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        """Give these lines once more."""
        self._back += reversed(lines)
        self.number -= len(lines)

    def skip_rest(self, line: str) -> bool:
        """Whether a line is longer than LINE; the rest of it is passed over then."""
        long = len(line) >= LINE and line[-1] not in "\r\n"
        while long and (rest := self._read()) and rest[-1] not in "\r\n":
            pass
        return long

    def _read(self) -> str:
        try:
            return self._file.readline(LINE)
        except UnicodeError as error:
            raise UserError(f"{self.path}, after line {self.number}: {error}; save the table as UTF-8") from None


def delimited(path: Path, columns: Sequence[str], encoding: str = "") -> Iterator[Row]:
    """Yield the rows of a table with a header; values are text, None where a row ends early. Raises UserError."""
    separator = SEPARATORS[path.suffix.lower()]
    with open(path, "rb") as raw:
        lines = Lines(path, raw, encoding, "")
        first = next((line for line in lines if line.strip()), "")
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        _check_header(path, columns, names, first, separator)
        padded = any(name.startswith(" ") for name in first.split(separator)[1:])  # "image, caption"
        records = _Records(lines, names, columns, {"delimiter": separator, "skipinitialspace": padded})
        for line in lines:
            if line.strip("\r\n"):
                yield records.row(lines.number, line)


def _check_header(path: Path, columns: Sequence[str], names: list[str], line: str, separator: str) -> None:
    if "\0" in line:
        raise UserError(f"{path}, line 1: it has NULs; if it is UTF-16 without its mark, save the table as UTF-8")
    if bad := HALF.search(line):
        raise UserError(f"{path}, line 1: {not_utf8(ord(bad[0]) & 0xFF, bad.start())}")
    missing = set(columns) - set(names)
    for other in ";\t|,":
        inside = {name.strip(' "\r\n') for name in line.split(other)}
        if missing and other != separator and set(columns) <= inside:
            raise UserError(f"{path}: its separator looks like {other!r}; save it with {separator!r} between the cells")
    check_columns(path, columns, names)


class _Records:
    """Rows of lines. A quote that opens and does not close costs the line that it opens in, and no other."""

    def __init__(self, lines: Lines, names: list[str], columns: Sequence[str], form: dict[str, Any]) -> None:
        self.lines, self.names, self.form = lines, names, form
        self.image = names.index(columns[0]) if columns else 0

    def row(self, number: int, line: str) -> Row:
        """Return the row that begins with a line."""
        if self.lines.skip_rest(line):
            return bad_row(number, f"the line has more than {LINE:,} characters")
        taken = [line]
        try:
            cells = self._cells(self._more(taken), strict=True)
            if len(taken) == 1 or not any(map(self._is_row, taken[1:])):
                return self._named(number, cells)
            why = f"closes in line {self.lines.number}, and what is between looks like rows"
        except csv.Error as error:
            why = f"is not closed ({error})"
            if len(taken) == 1 and "end of data" not in why:  # at the end of a file that is cut
                return self._sloppy(number, line)
        self.lines.put_back(taken[1:])
        return bad_row(number, f"a quote that opens in this line {why}")

    def _more(self, taken: list[str]) -> Iterator[str]:
        """Give a line and as many after it as the quotes ask for, and keep them in `taken`."""
        yield taken[0]
        size = len(taken[0])
        for line in self.lines:
            taken.append(line)
            size += len(line)
            if size > LINE:
                raise csv.Error(f"not within {LINE:,} characters")
            yield line

    def _sloppy(self, number: int, line: str) -> Row:
        """Read a line whose quotes stand in places of their own."""
        try:
            return self._named(number, self._cells(iter([line])))
        except csv.Error as error:
            return bad_row(number, str(error))

    def _cells(self, lines: Iterator[str], strict: bool = False) -> list[str]:
        before = csv.field_size_limit(LINE)  # the module has one limit for all; others find theirs again
        try:
            return next(csv.reader(lines, strict=strict, **self.form), [])
        finally:
            csv.field_size_limit(before)

    def _is_row(self, line: str) -> bool:
        """Whether a line inside of a cell would be a row: as many cells, and a file's name where the image stands."""
        try:
            cells = self._cells(iter([line]))
        except csv.Error:
            return False
        return len(cells) == len(self.names) > 1 and cells[self.image].rpartition(".")[2].lower() in IMAGES

    def _named(self, number: int, cells: list[str]) -> Row:
        while len(cells) > len(self.names) and not cells[-1].strip():
            cells.pop()
        if len(cells) > len(self.names):
            has = f"it has {len(cells)} cells and the header {len(self.names)}"
            return bad_row(number, f"{has}: a text with the separator in it stands in quotes")
        values = {**dict.fromkeys(self.names), **dict(zip(self.names, cells))}
        for name, cell in values.items():
            if cell and not cell.isascii() and (bad := HALF.search(cell)):
                byte = ord(bad[0]) - 0xDC00
                what = not_utf8(byte) if 128 <= byte < 256 else "half a character (a lone surrogate)"
                return Row(number, values, Fault("bad_text", f"{name}: {what}"))
        return Row(number, values)
