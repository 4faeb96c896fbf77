"""Tables that people bring: .csv, .tsv, .jsonl, .ndjson, .parquet and datasets on disk, row by row, never whole.

A row that cannot be used is one row with a fault, and the rows after it are read. What is wrong with a whole table (no
such column, another separator, no text at all) is a UserError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Fault
from mmclr.data.tabular.delimited import LINE, SEPARATORS, Lines, delimited
from mmclr.data.tabular.rows import Row, bad_row, check_columns, check_file, of_object, read_json
from mmclr.errors import UserError

JSON_LINES = (".jsonl", ".ndjson")
KINDS = (*SEPARATORS, *JSON_LINES, ".parquet")
# what pyarrow raises on bytes that are not what they should be
BROKEN = (pa.ArrowException, OSError, ValueError, IndexError, KeyError, TypeError, MemoryError, OverflowError)
BATCH = 64  # rows of Parquet and Arrow that are in memory at once, with their images


def rows(path: Path, columns: Sequence[str] = (), encoding: str = "") -> Iterator[Row]:
    """Yield the rows of a table that has `columns` (the image's first), in order.

    Text is UTF-8, or what a byte order mark or `encoding` says. Raises UserError when the table has not got one of the
    columns: at once where there is a header, at the end where each row has names of its own.
    """
    if path.is_dir():
        return _dataset(path, columns)
    check_file(path)
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path, columns)
    if kind not in KINDS:
        raise UserError(f"{path}: a table is a {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    return delimited(path, columns, encoding) if kind in SEPARATORS else _json_lines(path, columns, encoding)


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the entries of a .jsonl, or of a JSON file that is a list or an object of them. Raises UserError."""
    if path.suffix.lower() in JSON_LINES:
        yield from rows(path)
        return
    found = read_json(path)
    if not isinstance(found, (list, dict)):
        raise UserError(f"{path}: it holds one value, not a list of entries")
    for number, entry in enumerate(found.values() if isinstance(found, dict) else found, 1):
        yield of_object(number, entry)


def _json_lines(path: Path, columns: Sequence[str], encoding: str) -> Iterator[Row]:
    seen: dict[str, None] = {}
    with open(path, "rb") as raw:
        lines = Lines(path, raw, encoding, None)
        for line in lines:
            number = lines.number
            if lines.skip_rest(line):
                yield bad_row(number, f"the line has more than {LINE:,} characters")
            elif line.strip():
                row = _parsed(number, line)
                seen |= dict.fromkeys(row.values) if len(seen) < 1000 else {}
                yield row
    if not set(columns) <= set(seen):
        check_columns(path, columns, list(seen))


def _parsed(number: int, line: str) -> Row:
    try:
        data = line.encode("utf-8", "surrogateescape")  # bytes that are no UTF-8 are themselves again
        return of_object(number, fields.tree(data, "the line"))
    except UnicodeEncodeError:
        return Row(number, {}, Fault("bad_text", "the line has half a character (a lone surrogate)"))
    except Fault as fault:
        return Row(number, {}, fault)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read row group by row group: what is damaged in one costs the rest of that one."""
    number = 1
    try:
        file = pq.ParquetFile(path)
        names, groups = list(file.schema_arrow.names), file.num_row_groups
    except BROKEN as error:
        raise UserError(f"{path}: damaged, or no Parquet file: {_short(error)}") from None
    with file:
        check_columns(path, columns, names)
        for group in range(groups):
            begin, count = number, file.metadata.row_group(group).num_rows
            try:
                for part in file.iter_batches(BATCH, [group]):
                    yield from _batch(part, number)
                    number += part.num_rows
            except BROKEN as error:
                lost = range(number, begin + count)
                yield from (Row(at, {}, Fault("unreadable", f"row group {group}: {_short(error)}")) for at in lost)
            number = begin + count


def _dataset(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """A Hugging Face dataset as its save_to_disk writes it: Arrow streams named in state.json."""
    number = 1
    for name in _arrow_files(path):
        try:
            with pa.memory_map(str(path / name)) as source, pa.ipc.open_stream(source) as stream:
                check_columns(path, columns, stream.schema.names)
                for whole in stream:
                    for start in range(0, whole.num_rows, BATCH):
                        part = whole.slice(start, BATCH)
                        yield from _batch(part, number)
                        number += part.num_rows
        except BROKEN as error:
            yield Row(number, {}, Fault("unreadable", f"{name}: what follows is lost: {_short(error)}"))


def _arrow_files(path: Path) -> list[str]:
    if (path / "dataset_dict.json").is_file() and not (path / "state.json").is_file():
        splits = sorted(place.parent.name for place in path.glob("*/state.json"))
        raise UserError(f"{path}: it holds several datasets; name one of them: {', '.join(splits)}")
    state = read_json(path / "state.json")
    try:
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise UserError(f"{path}/state.json: it does not name the files of a dataset") from None
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{path}/state.json: it names {name!r}, which is not in this folder")
        check_file(path / name)
    return names


def _batch(part: Any, number: int) -> Iterator[Row]:
    """Return the rows of a batch; one whose values are no text is a fault of its own."""
    try:
        found: list[dict[str, Any]] = part.to_pylist()
    except BROKEN:
        found = []
    for at in range(part.num_rows):
        try:
            yield Row(number + at, found[at] if found else part.slice(at, 1).to_pylist()[0])
        except BROKEN as error:
            yield Row(number + at, {}, Fault("bad_text", _short(error)))


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
