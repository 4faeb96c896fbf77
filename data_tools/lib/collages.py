"""Collages: grid x grid images of shards on one canvas, with exact boxes and masks, and a caption that names one.

What is in each cell is known to the pixel, so that what finds, grounds or counts objects can be tested and measured on
real images without anyone having drawn a box.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from mmclr.data_tools.lib.inputs import json_bytes
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mmclr.data.pixels.decode import MAX_PIXELS, flatten, open_image, upright
from mmclr.data.random import key, uniform
from mmclr.data.samples import fields
from mmclr.data.samples.captions import Chooser, text_id
from mmclr.data.samples.fields import Field
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.shards import Sample, Shards
from mmclr.data.stream.permutation import permute, positions
from mmclr.errors import UserError

Mask = NDArray[np.bool_]
Masks = Literal["none", "rle", "png"]
LOOKED = 100  # sources that are looked into for each cell of a collage, at most
PORTION = 16  # of them are drawn at a time
SOURCES, NAMED, WORDS = range(3)  # what draws are for
WHITE, NEARLY = (255, 255, 255), 230  # from here on all channels are white: JPEG leaves noise around edges
CLEAR = ("RGBA", "LA", "PA", "La", "RGBa")  # modes with an alpha
OPAQUE = 128  # of 255: from here on a pixel is the object's


class Cell(NamedTuple):
    """One image in its cell."""

    pixels: NDArray[np.uint8]  # [S, S, 3]
    mask: Mask  # [S, S]


class Object(NamedTuple):
    """One image of a collage, and what is said of it."""

    cell: Cell
    name: str  # its caption
    key: str
    label: Any  # None without a field of classes


class Collage(NamedTuple):
    """One canvas."""

    pixels: NDArray[np.uint8]  # [G S, G S, 3]
    masks: list[Mask]  # [G S, G S] of each object, row by row
    caption: str
    facts: dict[str, Any]  # for the json member

    def members(self, masks: Masks = "none") -> dict[str, bytes]:
        """Return it as the members of a sample: png, txt, json, and what `masks` asks for."""
        out = {"png": _png(self.pixels), "txt": self.caption.encode()}
        facts = dict(self.facts)
        if masks == "rle":
            facts["masks"] = [rle(mask) for mask in self.masks]
        if masks == "png":
            files = {f"mask{at}.png": _png(mask.astype(np.uint8) * 255) for at, mask in enumerate(self.masks)}
            out |= files
            facts["masks"] = list(files)
        return {**out, "json": json_bytes(facts)}


@dataclass
class Maker:
    """Makes collages of the photographs of shards: number -> collage, the same for a seed in any order.

    A collage is of different samples with different captions (case and spaces do not count), so that its caption names
    one. `left_out` has the reasons of each source that was met and cannot be used, and of captions lost beside others.
    """

    shards: Shards
    caption: str = "txt"
    label: str = ""
    grid: int = 2
    size: int = 112  # pixels of a cell
    seed: int = 0
    ledger: Ledger = field(default_factory=Ledger)  # with a line for each of left_out
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, number: int) -> Collage:
        """Return a collage. Raises UserError where too few sources can be used."""
        word = key(np.array([self.seed]), number)
        objects: dict[int, Object] = {}
        for source in self._sources(number):
            found = self._object(source, number)
            if found is not None:
                objects.setdefault(text_id(found.name), found)
            if len(objects) == self.grid**2:
                named = int(uniform(key(word, NAMED), 1)[0, 0] * len(objects))
                return self._lay(list(objects.values()), named)
        lost = "".join(f"\n{line}" for line in self.ledger.lines(met="left out"))
        raise UserError(
            f"{self.shards.where(0).shard}, ...: a collage needs {self.grid**2} images with different captions, and "
            f"{len(objects)} were found among {self._most} samples; give more shards or a smaller --grid{lost}"
        )

    @property
    def _most(self) -> int:
        return min(len(self.shards), LOOKED * self.grid**2)

    def _sources(self, number: int) -> Iterator[int]:
        """Yield different samples in a random order."""
        word = key(np.array([self.seed]), number, SOURCES)
        for start in range(0, self._most, PORTION):
            places = positions(start, min(PORTION, self._most - start))
            yield from permute(places, len(self.shards), word.repeat(len(places))).tolist()

    def _object(self, source: int, number: int) -> Object | None:
        """Return a source as it is in a collage; None where it cannot be used, which is counted once."""
        lost: list[Fault] = []
        found = None
        try:
            sample = self.shards.read(source)
            texts = Chooser({self.caption: 1.0})
            word = key(np.array([self.seed]), number, WORDS, source)
            [name] = texts.choose(texts.candidates(sample, lost), word)
            found = Object(cell(sample.image(), self.size), name, sample.key, self._class(sample))
        except Fault as fault:
            lost = [fault]
        if lost and str(source) not in self.left_out:
            self.left_out[str(source)] = [fault.reason for fault in lost]
            self.ledger.add(self.shards.entry(source, fault) for fault in lost)
        return found

    def _class(self, sample: Sample) -> Any:
        """Return what the field of classes says, as it stands there. Raises Fault."""
        if not self.label:
            return None
        value = fields.first(Field(self.label).value(sample))
        if fields.is_missing(value):
            raise Fault("no_label", f"{self.label} is not there, or null")
        fields.label(value, self.label)
        return value.strip() if isinstance(value, str) else value

    def _lay(self, objects: list[Object], named: int) -> Collage:
        """Put the objects into the cells, row by row."""
        side = self.grid * self.size
        pixels = np.full((side, side, 3), 255, np.uint8)
        masks = []
        for at, one in enumerate(objects):
            top, left = (place * self.size for place in divmod(at, self.grid))
            place = np.s_[top : top + self.size, left : left + self.size]
            pixels[place] = one.cell.pixels
            masks.append(np.zeros((side, side), np.bool_))
            masks[-1][place] = one.cell.mask
        facts = {
            "boxes": [box(mask) for mask in masks],
            "names": [one.name for one in objects],
            "named": named,
            "sources": [one.key for one in objects],
            "grid": self.grid,
        }
        facts |= {"labels": [one.label for one in objects]} if self.label else {}
        return Collage(pixels, masks, objects[named].name, facts)


def cell(data: bytes, size: int) -> Cell:
    """Return an image in a cell of `size` pixels a side. Raises Fault.

    Upright and laid on white, its longer side is resized to `size` (bicubic) and the rest of the cell is white, half
    on either side. The mask is, after resizing: where a pixel has an alpha below 128 of 255, those with at least 128;
    else, where all four corners are white (at least 230 in each channel), all but the white that is connected with the
    image's border, over sides of pixels; else the whole image. Where no pixel of a mask is anything but white, nothing
    can be seen: a Fault.
    """
    image, alpha = _decoded(data)
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    small = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    coloured: Mask = np.asarray((small < NEARLY).any(-1))
    mask = np.ones((height, width), np.bool_)
    if alpha is not None:
        mask = np.asarray(alpha.resize((width, height), Image.Resampling.BICUBIC)) >= OPAQUE
    if mask.all() and not coloured[[0, 0, -1, -1], [0, -1, 0, -1]].any():
        mask = ndimage.binary_fill_holes(coloured)
    if not (mask & coloured).any():
        raise Fault("blank_image", f"{image.width} x {image.height}: all of it is white or transparent")
    return _placed(small, mask, size)


def _placed(small: NDArray[np.uint8], mask: Mask, size: int) -> Cell:
    height, width = mask.shape
    top, left = (size - height) // 2, (size - width) // 2
    out = Cell(np.full((size, size, 3), 255, np.uint8), np.zeros((size, size), np.bool_))
    out.pixels[top : top + height, left : left + width] = small
    out.mask[top : top + height, left : left + width] = mask
    return out


def _decoded(data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """Return an image upright on white, and its alpha where it has one. Raises Fault."""
    opened = open_image(data, MAX_PIXELS)
    try:
        image = upright(opened)
        clear = image.mode in CLEAR or "transparency" in image.info
        return flatten(image, WHITE), image.convert("RGBA").getchannel("A") if clear else None
    except Exception as error:  # whatever a decoder makes of a stranger's bytes
        raise Fault("bad_image", f"{error or type(error).__name__}"[:200]) from error


def box(mask: Mask) -> list[float]:
    """Return left, top, right, bottom of the pixels of a mask [H, W], in shares of it."""
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    height, width = mask.shape
    return [float(left) / width, float(top) / height, (int(right) + 1) / width, (int(bottom) + 1) / height]


def rle(mask: Mask) -> dict[str, Any]:
    """Return a mask [H, W] in COCO's uncompressed form: lengths of runs down the columns, of zeros first."""
    flat = mask.T.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff([0, *starts, flat.size]).tolist()}


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
