"""One Arrow file of named arrays of equal length with facts about them, mapped into memory when it is read.

An Arrow IPC file of one record batch that is not compressed: every Arrow library reads it, and what is read here are
views of the mapped file. A file may come from a stranger: types are of a list, sizes are bounded by the file's own,
nothing is decompressed, and a checksum covers facts and arrays.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmclr.data.columns.kind import NUMBERS, WIDEST

VERSION = 1
LONGEST = 1 << 24  # bytes of facts
BEGIN = b"ARROW1\0\0"  # what follows is a stream of messages: the schema, then the rows
KNOWN = BEGIN + b"\xff\xff\xff\xff"
DTYPES = (*NUMBERS, "uint8")  # uint8 for digests
TYPES = {pa.from_numpy_dtype(dtype): dtype for dtype in DTYPES}

Values: TypeAlias = "NDArray[Any] | pa.Array"  # numbers [n], vectors [n, width], or texts
BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError,
          AttributeError, StopIteration, struct.error, RecursionError)  # fmt: skip


class Damaged(Exception):
    """A file is not what was written; says why."""


class Table:
    """A file's contents: `facts`, and `arrays` by name, numbers [n], vectors [n, width] or an Arrow array of texts."""

    def __init__(self, facts: dict[str, Any], arrays: dict[str, Values], rows: int) -> None:
        self.facts, self.arrays, self.rows = facts, arrays, rows


def save(file: IO[bytes], arrays: Mapping[str, Values], facts: Mapping[str, Any]) -> None:
    """Write arrays of equal length and facts (JSON) about them."""
    made = {name: _arrow(values) for name, values in arrays.items()}
    rows = len(next(iter(made.values())))
    sums = {name: _sum(array) for name, array in made.items()}
    told = json.dumps({"version": VERSION, "rows": rows, "sums": sums, "facts": dict(facts)}, sort_keys=True)
    metadata = {"mmclr": told, "mmclr.sum": str(zlib.crc32(told.encode()))}
    schema = pa.schema([pa.field(name, array.type, False) for name, array in made.items()], metadata=metadata)
    with pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(list(made.values()), schema=schema))


def head(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, int]], int]:
    """Return a file's facts, the dtype and width of each array, and how many rows it says it has; no array is read.

    Raises Damaged, and FileNotFoundError where there is none.
    """
    with pa.memory_map(str(path)) as source:
        try:
            _, schema = _begin(source)
            told = _told(schema)
            return told["facts"], {field.name: _kind(field) for field in schema}, int(told["rows"])
        except BROKEN as error:
            raise Damaged(_short(error)) from error


def load(path: Path) -> Table:
    """Map a file; its arrays are checked once, and hold no file open. Raises Damaged, and FileNotFoundError."""
    with pa.memory_map(str(path)) as source:
        try:
            messages, schema = _begin(source)
            told = _told(schema)
            kinds = {field.name: _kind(field) for field in schema}
            message = messages.read_next_message()
            if message.type != "record batch" or _compressed(message.metadata.to_pybytes()):
                raise Damaged("its rows are compressed, or are none")
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            if batch.num_rows != told["rows"] or any(column.null_count for column in batch.columns):
                raise Damaged("it has other rows than it says")
            if {name: _sum(batch.column(name)) for name in kinds} != told["sums"]:
                raise Damaged("its checksum is another")
            return Table(told["facts"], {n: _values(batch.column(n), *kinds[n]) for n in kinds}, batch.num_rows)
        except BROKEN as error:
            raise Damaged(_short(error)) from error


def _begin(source: Any) -> tuple[Any, pa.Schema]:
    if source.read(len(BEGIN)) != BEGIN:
        raise Damaged("it is no Arrow file")
    messages = pa.ipc.MessageReader.open_stream(source)
    return messages, pa.ipc.read_schema(messages.read_next_message())


def _told(schema: pa.Schema) -> dict[str, Any]:
    """Return what a file says about itself."""
    metadata = schema.metadata or {}
    if b"mmclr" not in metadata:
        raise Damaged("it was not written by mmclr")
    text = metadata[b"mmclr"]
    if len(text) > LONGEST or zlib.crc32(text) != int(metadata[b"mmclr.sum"]):
        raise Damaged("its facts are not what was written")
    told = json.loads(text)
    if told["version"] != VERSION:
        raise Damaged(f"it is of version {told['version']!r}; this mmclr reads {VERSION}")
    if not isinstance(told["facts"], dict) or not isinstance(told["rows"], int):
        raise Damaged("its facts are not what was written")
    return told


def _kind(field: pa.Field) -> tuple[str, int]:
    """Return the dtype and width of a field of a type that is read. Raises Damaged."""
    kind = field.type
    width = 0
    if pa.types.is_fixed_size_list(kind) and 0 < kind.list_size <= WIDEST:
        kind, width = kind.value_type, kind.list_size
    if kind in TYPES:
        return TYPES[kind], width
    if kind == pa.large_string() and not width:
        return "string", 0
    raise Damaged(f"its {field.name[:40]!r} holds {str(field.type)[:60]}, not numbers, vectors of them, or texts")


def _arrow(values: Values) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    flat = np.ascontiguousarray(values).reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    array = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
    return array if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(array, values.shape[1])


def _values(array: pa.Array, dtype: str, width: int) -> Values:
    """Return an array's numbers as a view, its texts as they are."""
    if dtype == "string":
        return array
    numbers = _flat(array)
    if numbers.null_count or numbers.offset:
        raise Damaged("it has other rows than it says")
    count = len(array) * (width or 1)
    found = np.frombuffer(numbers.buffers()[1], dtype, count) if count else np.empty(0, dtype)
    return found.reshape(-1, width) if width else found


def _flat(array: pa.Array) -> pa.Array:
    return array.values if pa.types.is_fixed_size_list(array.type) else array


def _sum(array: pa.Array) -> int:
    """Return a checksum of an array's bytes, those that count: writers may pad buffers."""
    flat = _flat(array)
    if not len(flat):
        return 0
    if not pa.types.is_large_string(flat.type):
        return zlib.crc32(memoryview(flat.buffers()[1])[: len(flat) * flat.type.bit_width // 8])
    _, ends, texts = flat.buffers()
    size = int(np.frombuffer(ends, np.int64, len(flat) + 1)[-1])
    return zlib.crc32(memoryview(texts or b"")[:size], zlib.crc32(memoryview(ends)[: 8 * (len(flat) + 1)]))


def _compressed(metadata: bytes) -> bool:
    """Whether a record batch is compressed: its flatbuffer says so, before a byte of it is unpacked."""

    def slot(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        size = struct.unpack_from("<H", metadata, vtable)[0]
        inside = 4 + 2 * number < size and struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0]
        return table + inside if inside else 0

    header = slot(struct.unpack_from("<I", metadata, 0)[0], 2)  # Message: version, header_type, header
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return bool(slot(batch, 3))  # RecordBatch: length, nodes, buffers, compression


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
