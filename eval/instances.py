"""Small matching tasks, a few pictures and captions each: the forms of SugarCrepe, Winoground, ARO, and plain JSONL."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eval.pictures import MAX_PIXELS
from eval.sets import EvalSet
from mmclr.data.decode import as_stored
from mmclr.data.ledger import Fault
from mmclr.errors import UserError

Box = tuple[int, int, int, int]  # left, top, right, bottom
Source = tuple[str, Box | None]  # a file, and the part of it that is meant


@dataclass(frozen=True)
class Instance:
    """Picture i and caption i belong together; captions beyond the pictures are wrong for all."""

    pictures: tuple[Source, ...]
    captions: tuple[str, ...]
    group: str = ""  # the metric is the mean over groups of the means inside them, where there are groups


def read(path: Path) -> list[Instance]:
    """Read a file; its form is told by its first entry's keys."""
    entries = _entries(path)
    forms: dict[str, Callable[[dict[str, Any]], Instance]] = {
        "negative_caption": _sugar_crepe, "caption_1": _winoground, "false_caption": _aro, "captions": _plain,
    }  # fmt: skip
    parse = next((form for key, form in forms.items() if entries and key in entries[0]), None)
    if parse is None:
        raise UserError(f"{path}: no form that is known: SugarCrepe (negative_caption), Winoground (caption_1), "
                        "ARO (false_caption), or plain (images, captions)")  # fmt: skip
    try:
        found = [parse(entry) for entry in entries]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: an entry lacks {error}") from None
    return _without_rare(found) if "attributes" in entries[0] else found


def pictures(instances: Sequence[Instance], root: Path, name: str) -> tuple[EvalSet, dict[Source, int]]:
    """Return the distinct pictures of all instances as a set, and the number of each in it."""
    sources = list(dict.fromkeys(source for instance in instances for source in instance.pictures))
    files = {file: _locate(root, file) for file, _ in sources}
    missing = [file for file, path in files.items() if path is None]
    if missing:
        raise UserError(
            f"{root / missing[0]}: no such picture, and {len(missing) - 1} more; say where they lie: --images"
        )

    def load(number: int) -> bytes:
        file, box = sources[number]
        encoded = files[file].read_bytes()  # type: ignore[union-attr]
        try:
            return encoded if box is None else cut(encoded, box)
        except Fault:
            return encoded  # left out and counted where it is decoded

    return EvalSet(name, load, [str(source) for source in sources]), {source: i for i, source in enumerate(sources)}


def cut(encoded: bytes, box: Box, *, square: bool = False) -> bytes:
    """Return a part of a picture, as PNG; `square` pads it with black to a square, in the middle."""
    image = as_stored(encoded, MAX_PIXELS).crop(box)
    if square and image.width != image.height:
        side = max(image.size)
        padded = Image.new("RGB", (side, side))
        padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = padded
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    return list(tree.values()) if isinstance(tree, dict) else tree


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
        raise UserError(f"{files[0]}: an entry needs two captions or more, the right ones first")
    return Instance(tuple((file, None) for file in files), tuple(entry["captions"]), entry.get("group", ""))


def _without_rare(found: list[Instance], least: int = 25) -> list[Instance]:
    """Leave out attribute pairs with fewer than 25 samples, as ARO does."""
    counts: dict[str, int] = {}
    for instance in found:
        counts[instance.group] = counts.get(instance.group, 0) + 1
    return [instance for instance in found if counts[instance.group] >= least]


def _locate(root: Path, file: str) -> Path | None:
    """Find a picture below `root`; names without an ending get the usual ones."""
    return next((path for path in _candidates(root / file) if path.is_file()), None)


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for ending in (".jpg", ".png", ".jpeg", ".webp"):
        yield path.with_name(path.name + ending)
