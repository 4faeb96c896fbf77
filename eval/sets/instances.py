"""Small matching tasks, a few images and captions each: the forms of SugarCrepe, Winoground, ARO, and plain JSONL."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmclr.eval.sets.evaluation_set import MAX_FAULTS, EvalSet, counted
from PIL import Image

from mmclr.data.pixels.decode import MAX_PIXELS, as_stored
from mmclr.data.samples import fields
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.tabular.rows import Row, read_image
from mmclr.data.tabular.tables import json_rows
from mmclr.errors import UserError

Box = tuple[int, int, int, int]  # left, top, right, bottom
Source = tuple[str, Box | None]  # a file, and the part of it that is meant


@dataclass(frozen=True)
class Instance:
    """Image i and caption i belong together; captions beyond the images are wrong for all."""

    images: tuple[Source, ...]
    captions: tuple[str, ...]
    group: str = ""  # the metric is the mean over groups of the means inside them, where there are groups


def read(path: Path, ledger: Ledger | None = None) -> list[Instance]:
    """Read a file; its form is told by its first entry's keys. An entry that cannot be used is counted in `ledger`."""
    ledger = ledger if ledger is not None else Ledger()
    entries = list(json_rows(path))
    forms: dict[str, Callable[[dict[str, Any]], Instance]] = {
        "negative_caption": _sugar_crepe,
        "caption_1": _winoground,
        "false_caption": _aro,
        "captions": _plain,
    }
    form = next((key for key in forms for row in entries if key in row.values), None)
    if form is None:
        raise UserError(
            f"{path}: no form that is known: SugarCrepe (negative_caption), Winoground (caption_1), "
            "ARO (false_caption), or plain (images, captions)"
        )
    found = []
    for row in entries:
        try:
            found.append(_parse(forms[form], row))
        except Fault as fault:
            ledger.add([row.entry(path, fault)])
    if not found:
        raise UserError("\n".join([f"{path}: no entry can be used", *ledger.lines(met="left out")]))
    return _without_rare(found) if any("attributes" in row.values for row in entries) else found


def _parse(form: Callable[[dict[str, Any]], Instance], row: Row) -> Instance:
    """Return an entry as an Instance whose names and captions are text. Raises Fault."""
    if row.fault:
        raise row.fault
    try:
        found = form(row.values)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise Fault("bad_row", f"an entry lacks {error}") from None
    for text in (*found.captions, *(file for file, _ in found.images)):
        fields.caption(text, "a caption or the name of an image")
    captions = tuple(map(str, found.captions))
    return replace(found, captions=captions, group=str(found.group))


def images_of(
    instances: Sequence[Instance], root: Path, name: str, ledger: Ledger | None = None, max_faults: float = MAX_FAULTS
) -> tuple[EvalSet, dict[Source, int]]:
    """Return the distinct images of all instances as a set, and the number of each in it; missing ones are counted.

    `ledger` has what was counted before; it goes into the set.
    """
    ledger = ledger if ledger is not None else Ledger()
    sources = list(dict.fromkeys(source for instance in instances for source in instance.images))
    files = {file: _locate(root, file) for file, _ in sources}
    missing = [file for file, path in files.items() if path is None]
    if missing and len(missing) == len(files):
        raise UserError(
            f"{root / missing[0]}: no such image, and {len(missing) - 1} more; say where they lie: --images"
        )
    ledger.add(Entry(str(root / file), 0, "", "missing_file", "say where images lie: --images") for file in missing)
    sources = [source for source in sources if files[source[0]] is not None]

    def load(number: int) -> bytes:
        file, box = sources[number]
        encoded = read_image(files[file])  # type: ignore[arg-type]
        return encoded if box is None else cut(encoded, box)

    keys = [str(source) for source in sources]
    data = EvalSet(name, load, keys, max_faults=max_faults, **counted(ledger)).check()
    return data, {source: i for i, source in enumerate(sources)}


def rows_of(sources: Mapping[Source, int], data: EvalSet) -> dict[Source, int]:
    """Return the row of each image among those of `data` that are left after decoding."""
    left = {key: row for row, key in enumerate(data.keys)}
    return {source: left[str(source)] for source in sources if str(source) in left}


def cut(encoded: bytes, box: Box, *, square: bool = False) -> bytes:
    """Return a part of an image, as PNG; `square` pads it with black to a square, in the middle."""
    image = as_stored(encoded, MAX_PIXELS).crop(box)
    if square and image.width != image.height:
        side = max(image.size)
        padded = Image.new("RGB", (side, side))
        padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = padded
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _sugar_crepe(entry: dict[str, Any]) -> Instance:
    return Instance(((entry["filename"], None),), (entry["caption"], entry["negative_caption"]))


def _winoground(entry: dict[str, Any]) -> Instance:
    return Instance(((entry["image_0"], None), (entry["image_1"], None)), (entry["caption_0"], entry["caption_1"]))


def _aro(entry: dict[str, Any]) -> Instance:
    """VG-Relation and VG-Attribution: the box is cut out, the groups are relations or pairs of attributes."""
    file = entry.get("image_path") or f"{entry['image_id']}.jpg"
    x, y, w, h = (float(entry[f"bbox_{side}"]) for side in "xywh")
    box = round(x), round(y), round(x + w), round(y + h)  # as Pillow's crop rounds
    group = entry.get("relation_name") or "_".join(entry["attributes"])
    return Instance(((file, box),), (entry["true_caption"], entry["false_caption"]), group)


def _plain(entry: dict[str, Any]) -> Instance:
    files = entry["images"] if "images" in entry else [entry["image"]]
    if len(entry["captions"]) < max(2, len(files)):
        raise Fault("bad_row", f"{files[0]}: an entry needs two captions or more, the right ones first")
    return Instance(tuple((file, None) for file in files), tuple(entry["captions"]), entry.get("group", ""))


def _without_rare(found: list[Instance], least: int = 25) -> list[Instance]:
    """Leave out attribute pairs with fewer than 25 samples, as ARO does."""
    counts: dict[str, int] = {}
    for instance in found:
        counts[instance.group] = counts.get(instance.group, 0) + 1
    return [instance for instance in found if counts[instance.group] >= least]


def _locate(root: Path, file: str) -> Path | None:
    """Find an image below `root`; names without an ending get the usual ones."""
    return next((path for path in _candidates(root / file) if os.path.isfile(path)), None)


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for ending in (".jpg", ".png", ".jpeg", ".webp"):
        yield path.with_name(path.name + ending)
