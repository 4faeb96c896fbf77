"""The samples of a list of shards as one numbered sequence: number -> shard, row -> bytes of its members."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmclr.data.samples.fields import IMAGE_BYTES, JSON_BYTES, check_image
from mmclr.data.samples.meant import meant
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.shards.addresses import identity
from mmclr.data.shards.index import Ints, ShardIndex
from mmclr.data.shards.sources import Reader, is_remote, why
from mmclr.data.shards.subset import contains, shard_uids
from mmclr.data.shards.tar_headers import BLOCK, holds_header
from mmclr.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "jfif", "gif", "bmp", "tif", "tiff", "avif", "ppm")
LARGEST = 1 << 29  # bytes of a sample that are read at once: no image is as large
GAP = 1 << 16  # bytes between two members that are read over rather than read around


class Sample(NamedTuple):
    """One stored sample. `members` are the bytes by extension."""

    shard: str
    row: int
    key: str
    members: dict[str, bytes]

    def image(self, among: Sequence[str] = IMAGES) -> bytes:
        """Return the bytes of the image: the first of these members that the sample has. Raises Fault."""
        for extension in among:
            if extension in self.members:
                check_image(len(self.members[extension]), extension)
                return self.members[extension]
        raise Fault("no_image", f"it has {', '.join(self.members) or 'nothing'}")

    def further(self, extension: str) -> bytes:
        """Return the bytes of a further image of it. Raises Fault."""
        if extension not in self.members:
            raise Fault("no_member", f"it has no {extension}")
        check_image(len(self.members[extension]), extension)
        return self.members[extension]

    def entry(self, fault: Fault) -> Entry:
        """Return the ledger's line for a fault of this sample."""
        return Entry(self.shard, self.row, self.key, fault.reason, fault.detail)


class Shards:
    """The usable samples of shards, numbered 0 to len - 1 in the order of the shards.

    A sample is usable when it has an image and one of `captions` (extensions); the others are counted in `ledger`.
    `images` are the extensions of images, True for those of photographs, none where images do not count.
    `further` are those of more images, which a sample need not have.
    With `subset` (sorted uids, see subset.py) only the samples that it names. Of a member that is longer than any value
    may be, no more is read than tells so, unless members are to be given `whole`, to be copied.
    """

    def __init__(
        self,
        indices: Sequence[ShardIndex],
        captions: Sequence[str] = ("txt",),
        extras: Sequence[str] = (),
        ledger: Ledger | None = None,
        images: bool | Sequence[str] = True,
        subset: NDArray[Any] | None = None,
        whole: bool = False,
        further: Sequence[str] = (),
    ) -> None:
        self.indices, self._whole, self._further = list(indices), whole, frozenset(further)
        self._images = (IMAGES if images else ()) if isinstance(images, bool) else tuple(images)
        self.wanted = frozenset([*captions, *extras, *self._images, *further])
        self.reader = Reader()
        self.several = False  # whether all images of a sample are wanted, not the first of them
        self.alone = False  # whether a sample is read without its neighbours, because they will not be wanted soon
        self._rows: list[Ints | None] = []  # usable rows; None where all are
        self._captions, self._subset = frozenset(captions), subset
        ledger = ledger if ledger is not None else Ledger()
        counts = [self._select(index, ledger) for index in self.indices]
        self._ends = np.cumsum(counts, dtype=np.int64)
        if not len(self):
            raise UserError(self._nothing(ledger))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def remote(self) -> bool:
        """Whether some of the samples have to come over a network."""
        return any(is_remote(index.url) for index in self.indices)

    @property
    def fingerprint(self) -> str:
        """Return a hash that changes when the number or order of the samples may have changed."""
        text = ";".join(f"{identity(index.url).rsplit('/', 1)[-1]}:{index.stat.size}" for index in self.indices)
        return hashlib.sha256(f"{text};{self._ends.tolist()}".encode()).hexdigest()[:16]

    def locate(self, number: int) -> tuple[int, int]:
        """Return which shard and which row of it a sample is."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        row = number - (int(self._ends[shard - 1]) if shard else 0)
        rows = self._rows[shard]
        return shard, row if rows is None else int(rows[row])

    def places(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Return the shard and the row in it of each sample: [n] each."""
        shard = np.searchsorted(self._ends, numbers, side="right").astype(np.int64)
        row = numbers - np.where(shard > 0, self._ends[shard - 1], 0)
        for which in set(shard.tolist()):
            usable = self._rows[which]
            if usable is not None:
                row[shard == which] = usable[row[shard == which]]
        return shard, row

    def rows(self, shard: int) -> Ints | None:
        """Return the usable rows of a shard, None where all are."""
        return self._rows[shard]

    def read(self, number: int, extensions: Iterable[str] | None = None) -> Sample:
        """Return a sample with the members of `extensions` (all that were asked for, if None)."""
        shard, row = self.locate(number)
        index = self.indices[shard]
        wanted = self.wanted if extensions is None else frozenset(extensions)
        members = self._bounded([member for member in index.members(row) if member[0] in wanted])
        return Sample(identity(index.url), row, index.key(row), dict(self._bytes(index, row, members)))

    def bytes_of(self, number: int) -> int:
        """Return how many bytes the members of a sample have, about: what it takes to have it in memory."""
        shard, row = self.locate(number)
        arrays = self.indices[shard].arrays
        return int(arrays["size"][arrays["first"][row] : arrays["first"][row + 1]].sum())

    def where(self, number: int) -> Entry:
        """Return shard, row and key of a sample, to be completed with a reason."""
        shard, row = self.locate(number)
        return Entry(identity(self.indices[shard].url), row, self.indices[shard].key(row), "unreadable", "")

    def entry(self, number: int, fault: Fault) -> Entry:
        """Return the ledger's line for a fault of a sample."""
        return self.where(number)._replace(reason=fault.reason, detail=fault.detail)

    def _bounded(self, members: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        """Return what is to be read of members. Raises Fault when the image is too large."""
        if all(size <= JSON_BYTES for _, _, size in members):
            return members
        sizes = {extension: size for extension, _, size in members}
        image = next((extension for extension in self._images or IMAGES if extension in sizes), "")
        if self._images and image and not self.several:
            check_image(sizes[image], image)
        for extension in self._further & sizes.keys():
            check_image(sizes[extension], extension)
        if self._whole:
            return members
        if self.several:
            most = dict.fromkeys([*self._images, *self._further], IMAGE_BYTES)
            return [(e, at, min(size, most.get(e, JSON_BYTES) + 1)) for e, at, size in members]
        images = {image} | self._further
        return [(e, at, size if e in images else min(size, JSON_BYTES + 1)) for e, at, size in members]

    def _bytes(self, index: ShardIndex, row: int, members: list[tuple[str, int, int]]) -> Iterable[tuple[str, bytes]]:
        try:
            for group in _near(members):
                start = group[0][1]
                end = max(offset + size for _, offset, size in group)
                if end - start > LARGEST:
                    raise Fault("unreadable", f"a sample of {end - start} bytes: more than {LARGEST} are not read")
                data = self.reader.read(index.url, start, end - start, self.alone, index.stat)
                if len(data) < end - start:
                    raise Fault("unreadable", f"the shard is shorter than when it was indexed, at byte {start}")
                for extension, offset, size in group:
                    member = data[offset - start : offset - start + size]
                    if size >= BLOCK and extension != "tar" and holds_header(member):
                        raise Fault("damaged", f"its {extension} runs over other members: the size at byte {offset}")
                    yield extension, member
        except OSError as error:
            raise Fault("unreadable", f"{error.strerror or error}") from error
        except UserError as error:
            raise Fault("unreadable", str(error)) from error

    def _select(self, index: ShardIndex, ledger: Ledger) -> int:
        """Choose the usable rows of a shard and count the others; return how many are usable."""
        reasons = [self._lack(kind) for kind in index.kinds]
        self._count_places(index, ledger)
        if not any(reasons) and self._subset is None:
            self._rows.append(None)
            return len(index)
        rows = np.flatnonzero(np.array([reason is None for reason in reasons])[index.kind]).astype(np.int64)
        usable = self._named(index, rows, ledger)
        self._rows.append(usable)
        last = len(index) - 1
        lost = np.setdiff1d(np.arange(len(index)), rows)
        for reason in sorted({reason for reason in reasons if reason}):
            mine = [row for row in lost if reasons[index.kind[row]] == reason and not (row == last and index.truncated)]
            self._exclude(index, reason, mine, ledger)
        self._exclude(index, "truncated", [row for row in lost if row == last and index.truncated], ledger)
        return len(usable)

    def _count_places(self, index: ShardIndex, ledger: Ledger) -> None:
        """Count what the index could not make samples of: damage, members without a key, pairs with dots in keys."""
        shard = identity(index.url)
        cut = len(index) and self._lack(index.kinds[index.kind[-1]])  # counted as a sample of its own
        for at, what in index.problems:
            if not (what.startswith("truncated") and cut):
                reason = "truncated" if what.startswith("truncated") else "damaged"
                ledger.exclude(reason, 1, [Entry(shard, -1, f"byte {at}", reason, what)])
        for reason, (count, first) in index.left_out.items():
            entries = [Entry(shard, -1, name, reason, what or f"at byte {at}") for at, name, what in first]
            ledger.exclude(reason, count, entries[: ledger.limit])
        for number, kind in enumerate(index.kinds):
            pairs = _pairs(kind, self._captions, self._images)
            if pairs and index.kind_counts[number]:
                row = int((index.kind == number).argmax())
                entry = Entry(shard, row, index.key(row), "dotted_key", f"its members end in {_list(pairs)}")
                ledger.exclude("dotted_key", len(pairs) * index.kind_counts[number], [entry])

    def _named(self, index: ShardIndex, rows: Ints, ledger: Ledger) -> Ints:
        """Return the rows that the subset names."""
        if self._subset is None or not len(rows):
            return rows
        try:
            named = contains(self._subset, shard_uids(index, self.reader)[rows])
        except OSError as error:
            raise UserError(f"{identity(index.url)}: cannot be read: {why(error)}") from error
        if not named.all():
            ledger.exclude("not_in_subset", int((~named).sum()))
        return rows[named]

    def _exclude(self, index: ShardIndex, reason: str, rows: list[Any], ledger: Ledger) -> None:
        if rows:
            shard = identity(index.url)
            has = [_list(sorted(index.kinds[index.kind[row]])) or "nothing" for row in rows[: ledger.limit]]
            entries = [Entry(shard, int(row), index.key(row), reason, f"it has {h}") for row, h in zip(rows, has)]
            ledger.exclude(reason, len(rows), entries)

    def _lack(self, kind: frozenset[str]) -> str | None:
        if self._images and not kind & frozenset(self._images):
            return "no_image"
        return "no_caption" if self._captions and not kind & self._captions else None

    def _nothing(self, ledger: Ledger) -> str:
        urls = [index.url for index in self.indices]
        seen = sorted({extension for index in self.indices for extension in index.extensions})
        lines = "".join(f"\n{line}" for line in ledger.lines())
        where = f"no usable sample in {len(urls)} shards ({identity(urls[0])}, ...)"
        missing = [name for name in sorted(self._captions) if name not in seen]
        if seen and len(missing) == len(self._captions) > 0:
            told = {**ledger.excluded, "no_caption": 0}
            named = f"no sample has {' or '.join(missing)}{meant(missing[0], self.indices, self.reader)}"
            return f"{where}: {named}{lines if any(told.values()) else ''}"
        return (
            f"{where}: their members are {_list(seen, 30) or 'none'}; "
            f"{', '.join(sorted(self._captions)) or 'an image'} is asked for{lines}"
        )


def _pairs(kind: frozenset[str], captions: frozenset[str], images: Sequence[str]) -> list[str]:
    """Return the beginnings that an image and a caption share in extensions with dots: samples whose keys have dots."""
    dotted = [extension.rpartition(".") for extension in kind if "." in extension]
    if len(dotted) < 2:
        return []
    begins = {begin for begin, _, ending in dotted if ending in images}
    return sorted(begins & {begin for begin, _, ending in dotted if ending in captions})


def _list(names: Sequence[str], most: int = 10) -> str:
    """Return names in a row, of many the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:60] for name in names[:most]) + more


def _near(members: list[tuple[str, int, int]]) -> Iterable[list[tuple[str, int, int]]]:
    """Group members that one read may cover."""
    group: list[tuple[str, int, int]] = []
    for member in members:
        if group and not 0 <= member[1] - (group[-1][1] + group[-1][2]) <= GAP:
            yield group
            group = []
        group.append(member)
    if group:
        yield group


def fingerprint(parts: Sequence[Shards]) -> str:
    """Return one hash for several lists of shards."""
    return hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()[:16]


def bounds(parts: Sequence[Shards]) -> NDArray[np.int64]:
    """Return where each list begins when they are numbered one after the other: [n + 1]."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
