"""Tar headers, scanned without reading the data between them: ustar, PAX (x, g), GNU long names, base-256 sizes.

Damage costs what it hits and no more: after a damaged header, a hole, the end of a joined archive or a size that is
wrong, the scan goes on at the next header. What lies between is a problem with its offset, and members that are no
plain files are listed, so that nothing is lost unsaid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmclr.data.shards import tar_headers
from mmclr.data.shards.tar_headers import BLOCK, Read, next_header

ZEROS = bytes(BLOCK)
FILE, FOLDER, LINK, EXTENSION, SPARSE, OTHER = range(6)
KINDS = [OTHER] * 256  # of a type flag
for flags, kind in ((b"0\x007", FILE), (b"5", FOLDER), (b"12346", LINK), (b"xgLKX", EXTENSION), (b"S", SPARSE)):
    for flag in flags:
        KINDS[flag] = kind
LEFT_OUT = {LINK: "a link or device", SPARSE: "a sparse file", OTHER: "a member of an unknown type"}
WINDOW = 4096  # bytes read at once: small members, as captions are, share one read
RUN = 4096  # headers whose checksums are compared at once
RESUMED = 16  # after damage, where the next is near; then more and more
EXTENDED = 1 << 20  # bytes of a PAX or GNU header; a longer one is damaged
ENDING = 1024 + 10_240  # zero bytes at the end of a healthy archive: two blocks, and the rest of a record
LAST = 64 << 20  # bytes of the last member that are looked through


class Scan(NamedTuple):
    """The regular files of an archive, and what is wrong with it."""

    names: list[str]
    offset: NDArray[np.int64]  # of the first byte of data
    size: NDArray[np.int64]
    problems: list[tuple[int, str]]  # (offset, what)
    cut: str | None  # name of the member whose data the end of the file cuts; not among `names`
    left_out: list[tuple[int, str, str]]  # (offset, name, what) of members that are no plain files, folders aside


@dataclass
class _Run:
    """Consecutive headers, whose checksums are still to be compared."""

    blocks: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of the data after each
    sizes: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # where a PAX or GNU header gives it
    problems: list[tuple[int, str]] = field(default_factory=list)
    extended: dict[str, str] = field(default_factory=dict)  # of the next member: from PAX x or GNU L
    next: int = 0  # where it goes on
    ended: bool = False  # by a zero block, or by the end of the file


@dataclass
class _Found:
    """The findings of a scan so far."""

    names: list[str] = field(default_factory=list)
    places: list[NDArray[np.int64]] = field(default_factory=lambda: [np.zeros((2, 0), np.int64)])
    problems: list[tuple[int, str]] = field(default_factory=list)
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    data: int = 0  # where the data of the last sound header begins
    file: bool = False  # whether that one is a regular file

    def end(self) -> int:
        """Return where the data of the last file ends."""
        last = next(places for places in reversed(self.places) if places.shape[1])
        return int(last[:, -1].sum())

    def drop(self) -> str:
        """Take the last file away again; return its name."""
        while not self.places[-1].shape[1]:
            self.places.pop()
        self.places[-1] = self.places[-1][:, :-1]
        return self.names.pop()


def scan(read: Read, size: int) -> Scan:
    """List the regular files of the archive of `size` bytes that `read` gives."""
    found = _Found()
    offset: int | None = 0
    extended: dict[str, str] = {}
    most, cut = RUN, None
    while offset is not None:
        run = _walk(read, offset, size, most, extended)
        good = _take(found, run)
        if good == len(run.blocks) and not run.ended:
            offset, extended, most = run.next, run.extended, min(4 * most, RUN)
            continue
        bad = run.offsets[good] - BLOCK if good < len(run.blocks) else None
        extended, most = {}, RESUMED
        offset = _swallowed(read, found, run.next if bad is None else bad, size, bad is None and run.next < size)
        if offset is not None:
            continue
        if bad is not None:  # what follows a damaged header was found with a size that means nothing
            offset = next_header(read, bad, size)
            found.problems.append((bad, f"damaged header: {(size if offset is None else offset) - bad} bytes skipped"))
        elif run.next <= size - BLOCK:
            offset = _behind_zeros(read, found, run.next, size)
        else:
            cut = _truncated(found, run.next, size)
    offsets, sizes = np.concatenate(found.places, 1)
    return Scan(found.names, offsets, sizes, sorted(found.problems), cut, sorted(found.left_out))


def _walk(read: Read, offset: int, size: int, most: int, extended: dict[str, str]) -> _Run:
    """Follow at most `most` headers from `offset` on, by their sizes alone."""
    run = _Run()
    blocks, offsets, sizes, kinds = run.blocks, run.offsets, run.sizes, run.kinds
    window, start = b"", 0
    while len(blocks) < most:
        if not start <= offset <= start + len(window) - BLOCK:
            window, start = read(offset, WINDOW) if offset <= size else b"", offset
        block = window[offset - start : offset - start + BLOCK]
        if len(block) < BLOCK or (block[0] == 0 and block == ZEROS):
            run.ended = True
            break
        kind, offset = KINDS[block[156]], offset + BLOCK
        try:
            length = int(block[124:135], 8)
        except ValueError:
            length = tar_headers.number(block[124:136])
        if kind == EXTENSION:
            length = _extension(run, read, chr(block[156]), offset, length, extended)
        elif extended:
            length = int(extended.get("size", length))
            if "path" in extended:
                run.names[len(blocks)] = extended["path"]
            if "sparse" in extended:
                kind = SPARSE
            extended = {}
        if kind in (FOLDER, LINK):
            length = 0  # no data follows
        elif length < 0:
            run.problems.append((offset - BLOCK, "a size that is none: taken as 0"))
            length = 0
        blocks.append(block)
        offsets.append(offset)
        sizes.append(length)
        kinds.append(kind)
        offset += (length + BLOCK - 1) & -BLOCK
    run.next, run.extended = offset, extended
    return run


def _extension(run: _Run, read: Read, letter: str, offset: int, length: int, extended: dict[str, str]) -> int:
    """Read a PAX or GNU header; return how many bytes it has."""
    data = read(offset, length) if 0 <= length <= EXTENDED else b""
    if length > EXTENDED:
        wrong = f"a header of {length} bytes: ignored"
    elif length > BLOCK and tar_headers.holds_header(data):
        wrong, length = "a header that runs over others: ignored", 0
    else:
        wrong = tar_headers.extend(extended, letter, data)
    if wrong:
        run.problems.append((offset - BLOCK, wrong))
    return length


def _take(found: _Found, run: _Run) -> int:
    """Add the members of a run up to its first damaged header; return how many headers these are."""
    table = np.frombuffer(b"".join(run.blocks), np.uint8).reshape(-1, BLOCK)
    right = tar_headers.sound(table)
    good = len(right) if right.all() else int(right.argmin())
    kinds = np.array(run.kinds[:good], np.int64)
    files = np.flatnonzero(kinds == FILE)
    found.names += tar_headers.names(table, files, run.names)
    found.places.append(np.array([run.offsets, run.sizes], np.int64)[:, files])
    bad = run.offsets[good] - BLOCK if good < len(right) else None
    found.problems += [problem for problem in run.problems if bad is None or problem[0] < bad]
    for number, what in LEFT_OUT.items():
        rows = np.flatnonzero(kinds == number)
        for row, name in zip(rows.tolist(), tar_headers.names(table, rows, run.names)):
            found.left_out.append((run.offsets[row] - BLOCK, name, what))
    if good:
        found.data, found.file = run.offsets[good - 1], run.kinds[good - 1] == FILE
    return good


def _swallowed(read: Read, found: _Found, stop: int, size: int, healthy: bool) -> int | None:
    """Look for headers in the data of the last member, where the chain of headers has ended; return the first.

    If there is one, the member's size was wrong, and the member is left out.
    """
    if found.file and found.names[-1].lower().endswith(".tar"):
        return None
    inner = next_header(read, found.data, min(stop, size, found.data + LAST if healthy else size))
    if inner is not None:
        if found.file and inner >= found.end():
            found.problems.append((inner, "bytes of the padding in front of this header are gone; nothing else is"))
        else:
            name = found.drop() if found.file else "a header"
            where = found.data - BLOCK
            found.problems.append((where, f"the size of {name[:200]!r} is wrong, it runs over others: left out"))
        found.file = False
    return inner


def _behind_zeros(read: Read, found: _Found, offset: int, size: int) -> int | None:
    """Look behind the zero block at `offset` for more than the end of an archive; return the next header."""
    at, first, step = offset, None, 1 << 14
    while at < size and first is None:
        data = read(at, step)
        if not data:
            break
        rest = data.lstrip(b"\0")
        first = at + len(data) - len(rest) if rest else None
        at, step = at + len(data), min(4 * step, tar_headers.SEARCH)
    if first is None:
        if size - offset > ENDING:
            what = "more than the end of an archive has: a hole?"
            found.problems.append((offset, f"{size - offset} zero bytes at the end, {what}"))
        return None
    following = next_header(read, first - (first - offset) % BLOCK, size)
    if following is None:
        found.problems.append((offset, f"{size - offset} bytes behind the end of the archive are no members of it"))
    else:
        what = "a hole, or archives that were joined; what is behind is used"
        found.problems.append((offset, f"{following - offset} bytes without a header: {what}"))
    return following


def _truncated(found: _Found, offset: int, size: int) -> str | None:
    """Say that the file ends before its archive; return the name of the member that this cuts."""
    if found.file and found.end() > size:
        missing = found.end() - size
        name = found.drop()
        found.problems.append((found.data, f"truncated: {missing} bytes of {name[:200]} are missing"))
        return name
    where = min(offset, size)
    found.problems.append((where, "truncated: the archive ends without its two zero blocks"))
    return None
