"""What is fuzzed: shards read, shards through commands, overrides, tables, model folders, columns, deep images.

A part gives cases by number. Each is a function of (folder, seed, count): it prepares a folder, and returns the healthy
case and a function from a number to a case, always the same for one seed.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from mmclr.config import load
from mmclr.data import columns as column_files
from mmclr.data.pixels.decode import EncodedImage
from mmclr.data.samples.fields import Field
from mmclr.data.samples.reader import read_all
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import open_index
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.errors import UserError
from tests.data import broken_tables, mixed
from tests.data.damage import bits
from tests.data.made import take
from tests.fuzz.commands import command, commands
from tests.fuzz.guard import Case
from tests.fuzz.scans import scans

Cases = Callable[[int], Case]
FIELDS = ("txt", "json:title", "json:tags", "cls", "npy")
SETTINGS = {"batch": 4, "workers": 0, "label": "json:number", "weight": "json:weight", "max_faults": 1,
            "faults": "skip", "caption": {"txt": 1, "json:title": 1}, "max_pixels": 64_000_000}  # fmt: skip


def reader(folder: Path, seed: int, count: int) -> tuple[Case, Cases]:
    """Damaged shards through the index, Shards, the loader and the reader of evaluations, in one process."""
    path = folder / "a.tar"
    words = Tokenizer.train([f"number {n}" for n in range(50)], size=560, context=8)
    config = load(DataConfig, {"train": str(path), **SETTINGS})

    def read() -> None:
        index = open_index(str(path))
        with contextlib.suppress(UserError):  # no sample is left
            shards = Shards([index], ("txt",), ("json", "cls", "npy"))
            for number in range(len(shards)):
                with contextlib.suppress(Fault):
                    _look(shards, number)
        with contextlib.suppress(UserError):
            take(Loader(config, words, 8, seed=0), 1)
        with contextlib.suppress(UserError):
            for rows in read_all(str(path), 8, label="cls"):
                assert len(rows.keys) == len(rows.pixels)

    def place(data: bytes, side: bytes = b"", time: int = 0) -> None:
        for old in folder.glob("a.tar*"):
            old.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(time, time))
        if side:
            (folder / "a.tar.index").write_bytes(side)

    sides = {}
    for whole in mixed.SHARDS:
        place(whole, time=5)
        open_index(str(path))
        sides[whole] = (folder / "a.tar.index").read_bytes()

    def case(number: int) -> Case:
        draw = random.Random(f"{seed}-{number}")
        name, data = mixed.damaged(draw)
        side, how = b"", draw.random()
        if how < 0.16:  # an index that is damaged, or of the shard as it was, whose size and time are the same
            whole = draw.choice([*sides])
            data, side = _like(data, whole), sides[whole]
            change = bits if how < 0.05 else mixed.resealed if how < 0.12 else lambda draw, side: side
            side, name = change(draw, side), f"{name}, index: {getattr(change, '__name__', '')}"

        def run() -> None:
            place(data, side, time=5)
            read()

        return Case(name, {"a.tar": data, **({"a.tar.index": side} if side else {})}, run)

    def healthy() -> None:
        for whole in mixed.SHARDS:
            place(whole)
            read()

    return Case("healthy", {}, healthy), case


def _look(shards: Shards, number: int) -> None:
    """Take everything out of a sample. Raises Fault."""
    sample = shards.read(number)
    with contextlib.suppress(Fault):
        EncodedImage(sample.image(), 1 << 24).pixels((0, 0, 0))
    for field in FIELDS:
        with contextlib.suppress(Fault):
            Field(field).texts(sample)


def _like(data: bytes, whole: bytes) -> bytes:
    """Return the data at the size of another."""
    return (data + bytes(len(whole)))[: len(whole)]


def tables(folder: Path, seed: int, count: int) -> tuple[Case, Cases]:
    """Damaged tables through what reads tables of their kind."""
    kinds = broken_tables.healthy(folder)

    def healthy() -> None:
        for name, data, how in kinds:
            assert how(broken_tables.write(folder / name, data))

    def case(number: int) -> Case:
        name, data, how = kinds[number % len(kinds)]
        data = broken_tables.mutate(data, random.Random(f"{seed}-{number}"))
        return Case(name, {name: data}, lambda: how(broken_tables.write(folder / name, data)))

    return Case("healthy", {}, healthy), case


def folders(folder: Path, seed: int, count: int) -> tuple[Case, Cases]:
    """Spoilt model folders, opened as commands open them."""
    from tests.exports import write_checkpoint
    from tests.models import hostile

    sound = write_checkpoint(folder / "run", names=("model",)) / "checkpoints" / "step-00000001" / "model"

    def case(number: int) -> Case:
        place = folder / "spoilt"
        shutil.rmtree(place, ignore_errors=True)
        hostile.spoil(Path(shutil.copytree(sound, place)), f"{seed}-{number}")
        files = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
        return Case(str(number), files, lambda: hostile.opened(place))

    return Case("healthy", {}, lambda: hostile.opened(sound)), case


def overrides(folder: Path, seed: int, count: int) -> tuple[Case, Cases]:
    """Anything behind a key, read as a config and made into terms; the last 1 in 40 with `mmclr train --dry-run`."""
    from mmclr.losses.weighted_sum import build_terms
    from mmclr.train.run import RunConfig
    from tests.overrides import drawn

    found = drawn(seed, count)
    (folder / "a.tar").write_bytes(mixed.SHARDS[0])
    data = f"data.train={folder / 'a.tar'}"

    def taken(text: str) -> None:
        build_terms(load(RunConfig, "debug.yaml", [data, text]).objectives)

    def dry(text: str) -> None:
        command(["train", "--dry-run", "debug.yaml", data, f"out={folder / 'out'}", text])

    def case(number: int) -> Case:
        text = "=".join(found[number])
        how = dry if number % 40 == 39 else taken
        return Case(how.__name__, {"override": text.encode("utf-8", "surrogatepass")}, lambda: how(text))

    def healthy() -> None:
        taken("steps=3")
        dry("steps=3")

    return Case("healthy", {}, healthy), case


def columns(folder: Path, seed: int, count: int) -> tuple[Case, Cases]:
    """Damaged columns of each sort, read as values; every second time no checksum tells: a stranger's are right."""
    path = folder / "a.tar"
    path.write_bytes(mixed.SHARDS[0])
    index = open_index(str(path))
    values = {"string": "abc", "int16": 7, "float32[3]": [1, 2, 3]}
    made: dict[tuple[str, bool], bytes] = {}
    for kind, sealed in ((kind, sealed) for kind in values for sealed in (False, True)):
        with _sealed(sealed), column_files.write(index, "x", column_files.Kind.parse(kind)) as column:
            column.put([0], np.array([values[kind]]))
            place = column_files.of_shard.places(index.url, "x")[0]
        made[kind, sealed] = place.read_bytes()

    def read(data: bytes, sealed: bool) -> list[object]:
        place.write_bytes(data)
        with _sealed(sealed):
            return column_files.Columns([Shards([index], (), (), images=False)]).values("x", [0, 1]).tolist()

    def case(number: int) -> Case:
        draw = random.Random(f"{seed}-{number}")
        kind, sealed = draw.choice([*values]), number % 2 == 0
        data = bytearray(made[kind, sealed])
        for _ in range(draw.choice((1, 1, 2, 5))):
            at = 4 * draw.randrange(len(data) // 4)
            word = draw.choice((0, 1, 2, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, draw.getrandbits(32)))
            data[at : at + 4] = word.to_bytes(4, "little")
        cut = bytes(data[: draw.randrange(len(data))]) if draw.random() < 0.1 else bytes(data)
        return Case(f"{kind}{', sealed' * sealed}", {place.name: cut}, lambda: read(cut, sealed))

    def healthy() -> None:
        for (kind, sealed), data in made.items():
            assert read(data, sealed)[0] == values[kind]

    return Case("healthy", {}, healthy), case


def _sealed(sealed: bool) -> contextlib.AbstractContextManager[object]:
    """Make every checksum of a column right, or leave them as they are."""
    crc = SimpleNamespace(crc32=lambda data, value=0: 0)
    return mock.patch("mmclr.data.columns.file.zlib", crc) if sealed else contextlib.nullcontext()


PARTS = {
    "reader": reader,
    "commands": commands,
    "overrides": overrides,
    "tables": tables,
    "folders": folders,
    "columns": columns,
    "scans": scans,
}
