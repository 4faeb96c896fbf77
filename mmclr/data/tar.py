"""Tar headers, scanned without reading the data between them: ustar, PAX (x, g), GNU long names, base-256 sizes.

A damaged header costs its member and no more: the scan goes on at the next block that is a header.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
ZEROS = bytes(BLOCK)
FILE, EMPTY, EXTENSION, SPARSE, OTHER = range(5)
KINDS = [OTHER] * 256  # of a type flag
for flags, kind in ((b"0\x007", FILE), (b"123456", EMPTY), (b"xgLK", EXTENSION), (b"S", SPARSE)):
    for flag in flags:
        KINDS[flag] = kind
SEARCH = 1 << 20  # bytes read at once while looking for the next header
WINDOW = 4096  # bytes read at once: small members, as captions are, share one read
RUN = 4096  # headers whose checksums are compared at once

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes, fewer at the end of the file


class Scan(NamedTuple):
    """The regular files of an archive, and what is wrong with it."""

    names: list[str]
    offset: NDArray[np.int64]  # of the first byte of data
    size: NDArray[np.int64]
    problems: list[tuple[int, str]]  # (offset, what)
    cut: str | None  # name of the member whose data the end of the file cuts; not among `names`


@dataclass
class _Run:
    """Consecutive headers, whose checksums are still to be compared."""

    blocks: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of the data after each
    sizes: list[int] = field(default_factory=list)
    files: list[bool] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # where a PAX or GNU header gives it
    problems: list[tuple[int, str]] = field(default_factory=list)
    next: int | None = None  # where to go on; None at the end of the archive


def scan(read: Read, size: int) -> Scan:
    """List the regular files of the archive of `size` bytes that `read` gives."""
    names: list[str] = []
    places: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]
    problems: list[tuple[int, str]] = []
    everywhere: dict[str, str] = {}  # from PAX g
    offset: int | None = 0
    while offset is not None:
        run = _walk(read, offset, size, everywhere)
        table = np.frombuffer(b"".join(run.blocks), np.uint8).reshape(-1, BLOCK)
        good = _sound(table)
        files = np.flatnonzero(run.files[:good])
        names += _names(table, files, run.names)
        places.append(np.array([run.offsets, run.sizes], np.int64)[:, files])
        offset = run.next
        bad = run.offsets[good] - BLOCK if good < len(run.blocks) else None
        problems += [problem for problem in run.problems if bad is None or problem[0] < bad]
        if bad is not None:  # what follows a damaged header was found with a size that means nothing
            offset = _next_header(read, bad + BLOCK, size)
            problems.append((bad, f"damaged header: {(offset or size) - bad} bytes skipped"))
    offsets, sizes = np.concatenate(places, 1)
    if not names or offsets[-1] + sizes[-1] <= size:
        return Scan(names, offsets, sizes, problems, None)
    missing = int(offsets[-1] + sizes[-1] - size)
    problems[-1:] = [(int(offsets[-1]), f"truncated: {missing} bytes of {names[-1]} are missing")]
    return Scan(names[:-1], offsets[:-1], sizes[:-1], problems, names[-1])


def _walk(read: Read, offset: int, size: int, everywhere: dict[str, str]) -> _Run:
    """Follow the headers from `offset` on, by their sizes alone."""
    run = _Run()
    blocks, offsets, sizes, files = run.blocks, run.offsets, run.sizes, run.files
    extended: dict[str, str] = {}  # of the next member: from PAX x or GNU L
    window, start = b"", 0
    while len(blocks) < RUN or extended:
        if not start <= offset <= start + len(window) - BLOCK:
            window, start = read(offset, WINDOW) if offset <= size else b"", offset
        block = window[offset - start : offset - start + BLOCK]
        if len(block) < BLOCK:
            run.problems.append((min(offset, size), "truncated: the archive ends without its two zero blocks"))
            return run
        if block[0] == 0 and block == ZEROS:
            return run
        kind, offset = KINDS[block[156]], offset + BLOCK
        try:
            length = int(block[124:135], 8)
        except ValueError:
            length = _number(block[124:136])
        if kind == EXTENSION:
            letter, data = chr(block[156]), read(offset, min(length, max(0, size - offset)))
            _extend(everywhere if letter == "g" else extended, letter, data)
        elif extended or everywhere:
            fields = {**everywhere, **extended}
            length, extended = _decimal(fields.get("size"), length), {}
            if "path" in fields:
                run.names[len(blocks)] = fields["path"]
        if kind == EMPTY:
            length = 0  # links, devices, folders, fifos: no data follows
        elif kind == SPARSE:
            run.problems.append((offset, "a sparse member is left out"))
        blocks.append(block)
        offsets.append(offset)
        sizes.append(length)
        files.append(kind == FILE)
        offset += (max(length, 0) + BLOCK - 1) & -BLOCK
    run.next = offset
    return run


def _number(text: bytes) -> int:
    """Read a size: octal, or base 256 when its first bit is set. A damaged one is 0: the checksum will tell."""
    if text[0] & 0x80:
        return int.from_bytes(text[1:], "big") % (1 << 62)
    digits = text.strip(b" \0")
    try:
        return int(digits, 8) if digits.isdigit() else 0
    except ValueError:
        return 0


def _decimal(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() else default


def _names(table: NDArray[np.uint8], files: NDArray[np.int64], given: dict[int, str]) -> list[str]:
    """Return the names of the headers `files`."""
    if not len(files):
        return []
    fields = np.ascontiguousarray(table[files, :100]).view("S100")[:, 0].tolist()
    names = b"\0".join(name.split(b"\0", 1)[0] for name in fields).decode("utf-8", "surrogateescape").split("\0")
    prefixed = (table[files, 345] != 0) & (table[files, 262] == 0)  # POSIX only: GNU keeps other things there
    for at in np.flatnonzero(prefixed):
        prefix = table[files[at], 345:500].tobytes().split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        names[at] = f"{prefix}/{names[at]}"
    if given:
        names = [given.get(row, name) for row, name in zip(files.tolist(), names)]
    return names


def _extend(fields: dict[str, str], letter: str, data: bytes) -> None:
    """Add what a PAX (x, g) or GNU (L, K) header says about the members after it."""
    if letter == "L":
        fields["path"] = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    elif letter != "K" and (b"path=" in data or b"size=" in data):  # most hold only times
        fields.update(_pax(data))


def _pax(data: bytes) -> dict[str, str]:
    """Read the records "LENGTH KEY=VALUE\\n" of a PAX header."""
    out = {}
    while data[:1].isdigit():
        length, space, _ = data.partition(b" ")
        end = int(length) if length.isdigit() else 0
        key, equals, value = data[len(length) + 1 : end].removesuffix(b"\n").partition(b"=")
        if not space or not equals:
            break
        out[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[end:]
    return out


def _sound(table: NDArray[np.uint8]) -> int:
    """Return how many headers, from the first on, carry their own checksum."""
    digits = table[:, 148:156].astype(np.int64)
    stored = np.zeros(len(table), np.int64)
    for digit in digits.T:
        stored = np.where((digit >= 48) & (digit < 56), stored * 8 + digit - 48, stored)
    strange = ((digits < 48) | (digits > 55)) & (digits != 0) & (digits != ord(" "))
    wrong = strange.any(1) | (table.sum(1, dtype=np.uint32) - digits.sum(1) + 8 * ord(" ") != stored)
    return int(wrong.argmax()) if wrong.any() else len(table)


def _next_header(read: Read, offset: int, size: int) -> int | None:
    """Return the offset of the next block that is a whole header, or None."""
    for start in range(offset, size, SEARCH):
        data = read(start, SEARCH)
        table = np.frombuffer(data, np.uint8, len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
        for at in np.flatnonzero((table[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(1)):
            if _sound(table[at : at + 1]):
                return start + int(at) * BLOCK
    return None
