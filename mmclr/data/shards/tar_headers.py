"""Single tar headers: names, sizes, checksums, and what PAX and GNU headers say about the member after them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
LONGEST = 4096  # bytes of a name: no file system knows longer ones
HUGE = 1 << 62  # sizes from here on are no sizes
STEP = 1 << 12  # bytes read at first while looking for the next header: it is near, as a rule
SEARCH = 1 << 20  # and at most

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes, fewer at the end of the file


def number(text: bytes) -> int:
    """Read a size: octal, or base 256 when its first bit is set. Returns -1 for one that is none."""
    if text[0] & 0x80:
        value = int.from_bytes(text[1:], "big")
        return value if text[0] == 0x80 and value < HUGE else -1  # 0xff begins a negative one
    digits = text.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else -1


def names(table: NDArray[np.uint8], rows: NDArray[np.int64], given: dict[int, str]) -> list[str]:
    """Return the names that the headers `rows` of `table` [n, 512] have; `given` by PAX and GNU headers."""
    if not len(rows):
        return []
    fields = np.ascontiguousarray(table[rows, :100]).view("S100")[:, 0].tolist()
    found = b"\0".join(name.split(b"\0", 1)[0] for name in fields).decode("utf-8", "surrogateescape").split("\0")
    prefixed = (table[rows, 345] != 0) & (table[rows, 262] == 0)  # POSIX only: GNU keeps other things there
    for at in np.flatnonzero(prefixed):
        prefix = table[rows[at], 345:500].tobytes().split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        found[at] = f"{prefix}/{found[at]}"
    return [given.get(row, name) for row, name in zip(rows.tolist(), found)] if given else found


def extend(fields: dict[str, str], letter: str, data: bytes) -> str:
    """Add what a PAX (x, g) or GNU (L, K) header says; return what is wrong with it, "" for nothing.

    Of all records only these are kept: path, size, and "sparse" for a member whose data is a map of holes.
    """
    if letter == "L":
        return _name(fields, data.split(b"\0", 1)[0])
    if letter == "K":
        return ""
    records, sound = _pax(data)
    if letter == "g":
        strange = sorted(key.decode() for key in records if key != b"sparse")
        return f"a global header gives every member one {' and '.join(strange)}: ignored" if strange else ""
    wrong = "" if sound else "a damaged PAX header: the member behind it may have another name"
    if b"path" in records:
        wrong = _name(fields, records[b"path"]) or wrong
    if b"size" in records:
        text = records[b"size"]
        if re.fullmatch(rb"[0-9]{1,19}", text) and int(text) < HUGE:
            fields["size"] = text.decode()
        else:
            wrong = f"a PAX header with a size that is none, {text[:30].decode('ascii', 'replace')!r}: ignored"
    if b"sparse" in records:
        fields["sparse"] = "yes"
    return wrong


def _name(fields: dict[str, str], name: bytes) -> str:
    if not 0 < len(name) <= LONGEST:
        return f"a name of {len(name)} bytes: ignored"
    fields["path"] = name.decode("utf-8", "surrogateescape")
    return ""


def _pax(data: bytes) -> tuple[dict[bytes, bytes], bool]:
    """Read the records "LENGTH KEY=VALUE\\n" of a PAX header that matter here; and whether all are whole."""
    out: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 0:
        match = _LENGTH.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1] != 10:
            return out, False
        key, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals:
            return out, False
        if key in (b"path", b"size"):
            out[key] = value
        elif key.startswith(b"GNU.sparse."):
            out[b"sparse"] = b""
        at = end
    return out, not data[at:].strip(b"\0") and at > 0


_LENGTH = re.compile(rb"([0-9]{1,7}) ")


def sound(table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which headers of `table` [n, 512] carry their own checksum, of unsigned or of signed bytes: [n]."""
    digits = table[:, 148:156].astype(np.int64)
    stored = np.zeros(len(table), np.int64)
    for digit in digits.T:
        stored = np.where((digit >= 48) & (digit < 56), stored * 8 + digit - 48, stored)
    strange = ((digits < 48) | (digits > 55)) & (digits != 0) & (digits != ord(" "))
    total = table.sum(1, dtype=np.uint32) - digits.sum(1) + 8 * ord(" ")
    right: NDArray[np.bool_] = ~strange.any(1) & (total == stored)
    if not right.all():  # old writers add up signed bytes
        rest = np.flatnonzero(~right & ~strange.any(1))
        high = (table[rest] >= 128).sum(1)
        right[rest] = total[rest] - 256 * high == stored[rest]
    return right


def next_header(read: Read, start: int, stop: int) -> int | None:
    """Return the offset of the first whole header in [start, stop), or None.

    Blocks at steps of 512 from `start` on are tried by their checksums; between them, where bytes were lost or added,
    what has the letters of a header.
    """
    step = STEP
    while start < stop:
        data = read(start, min(step, stop - start) + BLOCK - 1)
        table = np.frombuffer(data, np.uint8, len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
        field = table[:, 148:156]
        likely = (((field >= 48) & (field < 56)) | (field == 0) | (field == ord(" "))).all(1) & (table[:, 0] != 0)
        rows = np.flatnonzero(likely)
        found = [int(row) * BLOCK for row in rows[sound(table[rows])][:1]]
        for match in re.finditer(b"ustar", data):
            at = match.start() - 257
            if 0 <= at <= len(data) - BLOCK and sound(np.frombuffer(data, np.uint8, BLOCK, at)[None])[0]:
                found.append(at)
                break
        if found and start + min(found) < stop:
            return start + min(found)
        start, step = start + step, min(4 * step, SEARCH)
    return None


def holds_header(data: bytes) -> bool:
    """Whether a member's data contains a header at one of its blocks: its size is wrong, it runs over others."""
    letters = data[257::BLOCK]
    at = letters.find(b"u")
    while at >= 0:
        block = data[at * BLOCK : at * BLOCK + BLOCK]
        if block[257:262] == b"ustar" and len(block) == BLOCK and sound(np.frombuffer(block, np.uint8)[None])[0]:
            return True
        at = letters.find(b"u", at + 1)
    return False
