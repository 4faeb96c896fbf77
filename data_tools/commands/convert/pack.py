"""Write images and captions from folders and tables into shards."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmclr.data_tools.lib.inputs import Record, Stored, json_bytes, read_records
from mmclr.data_tools.lib.medium import add_arguments, packed
from mmclr.data_tools.lib.shard_writer import ShardWriter
from PIL import Image
from rich.progress import track

from mmclr.data.pixels.decode import EncodedImage
from mmclr.data.pixels.medium import Medium
from mmclr.data.pixels.npy import MAGIC
from mmclr.data.samples.images import usable
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.settings import DataConfig
from mmclr.data.shards.shards import IMAGES
from mmclr.data.stream.workers import run_ahead
from mmclr.data.tabular.rows import read_image
from mmclr.display.terminal import say

LISTED = "images"  # field of the json that lists the members of a sample's images
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


def main(argv: list[str]) -> int:
    """Pack; the status is 1 when nothing could be packed, 2 when too much was left out."""
    parser = _parser()
    args = parser.parse_args(argv)
    args.caption = args.caption.removeprefix("json:")  # as every other command calls it
    medium, chosen = packed(args)
    if medium and args.short_side:
        parser.error(
            "--short-side writes photographs of 8 bits; bands and arrays are packed as they are, so leave it out"
        )
    encoder = Encoder(args.short_side, args.quality, medium)
    settings = _settings(args) | chosen
    writer, ledger = ShardWriter(args.out, settings, args.samples, args.megabytes * 1_000_000, args.prefix), Ledger()
    if not writer.finished:
        images = medium.members if medium else IMAGES
        records = read_records(args.source, (args.image, args.caption), args.encoding, images, args.items)
        pack(records, writer, encoder, args.workers, ledger)
    written = sum(shard["samples"] for shard in writer.state["shards"])
    say(f"{args.out}: {len(writer.state['shards'])} shards, {written:,} samples")
    ledger.counts = dict(writer.state["left_out"])  # those of an earlier run that was stopped, too
    for line in ledger.lines(met="left out"):
        say(f"  {line}")
    ledger.check(written + ledger.lost, "skip", args.max_faults, "--max-faults ")
    return int(written == 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write images and captions into tar shards (KEY.jpg, KEY.txt, KEY.json). SOURCE is a folder of "
        "images (caption: KEY.txt beside it, a field of KEY.json, or the name of its folder; img2dataset's `files` "
        "format is this), a .csv, .tsv, .jsonl or .parquet with columns for image and caption, or a Hugging Face "
        "dataset saved to disk. Deep images (--channels) and arrays (--array) are stored as they are. Samples may have "
        "several images: of several columns, of a list in one, or, with --items, of a folder each; they are written as "
        "KEY.jpg, KEY.1.jpg, ..., and listed in the json, where data.images=json:images finds them. A shard appears "
        "when it is complete; the same command goes on where it stopped.",
        epilog="example: mmclr data pack photos.csv shards --image filepath --caption title --short-side 256",
    )
    parser.add_argument("source")
    parser.add_argument("out", help="folder for the shards")
    parser.add_argument(
        "--image",
        nargs="+",
        default=["image"],
        metavar="COLUMN",
        help="column of the image: a path, or bytes (default image); several columns for samples of several images",
    )
    parser.add_argument(
        "--items",
        action="store_true",
        help="a folder is one sample of all images in it; caption: ITEM.txt or ITEM.json beside or in it, or its name",
    )
    parser.add_argument("--caption", default="caption", help="column or json field of the caption (default caption)")
    parser.add_argument("--samples", type=int, default=10_000, help="samples in a shard (default 10000)")
    parser.add_argument("--megabytes", type=int, default=1000, help="or until it has this size (default 1000)")
    parser.add_argument(
        "--short-side",
        type=int,
        default=0,
        metavar="PX",
        help="write larger images smaller, as JPEG, so that training decodes less (0 = as they are)",
    )
    parser.add_argument("--quality", type=int, default=92, help="of the JPEG then (default 92)")
    add_arguments(parser)
    parser.add_argument("--workers", type=int, default=2, help="processes that read and encode (default 2)")
    parser.add_argument("--prefix", default="", help="of the names of the shards")
    parser.add_argument(
        "--encoding", default="", help="of tables and .txt files (default: UTF-8, or what a byte order mark says)"
    )
    parser.add_argument(
        "--max-faults",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="records that may be left out; with more the status is 2 (default 0.5, and any of the first 500)",
    )
    return parser


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the bytes of the shards depend on: a folder that was begun with other settings is refused."""
    settings = {
        "source": str(Path(args.source).resolve()),
        "columns": [*args.image, args.caption],
        "short_side": args.short_side,
        "quality": args.quality,
        "samples": args.samples,
        "megabytes": args.megabytes,
    }
    settings |= {"encoding": args.encoding} if args.encoding else {}
    settings |= {"items": True} if args.items else {}
    return settings


class Packed(NamedTuple):
    """The members of a record's sample, None where there is none, and what is wrong with the record."""

    members: dict[str, bytes] | None
    faults: list[Entry]


@dataclass(frozen=True)
class Encoder:
    """Makes the members of a sample from a record."""

    short_side: int = 0
    quality: int = 92
    medium: Medium | None = None  # of bands and arrays, which are stored as they are

    def __call__(self, record: Record) -> Packed:
        """Return the members; a record that cannot be used gives a fault."""
        lost = [*record.lost]
        try:
            return Packed(self._members(record, lost), [record.entry(fault) for fault in lost])
        except Fault as fault:
            return Packed(None, [record.entry(fault)])

    def _members(self, record: Record, lost: list[Fault]) -> dict[str, bytes]:
        if record.fault is not None:
            raise record.fault
        if not record.images:
            raise Fault("no_image", "the record names none")
        captions = [caption for caption in record.captions if caption.strip()]
        if not captions:
            raise Fault("empty_caption" if record.captions else "no_caption", str(record.images[0])[:200])
        kept = usable(record.images, self._image, lost)
        images = {f"{at}.{ending}" if at else ending: data for at, (ending, data) in enumerate(kept)}
        fields = {**record.fields, **({"captions": captions} if len(captions) > 1 else {})}
        if record.several:
            if LISTED in fields:
                raise Fault("bad_row", f"its field {LISTED} is in the way of the list of its images; rename it")
            fields[LISTED] = list(images)
        return {**images, "txt": captions[0].strip().encode(), "json": json_bytes(fields)}

    def _image(self, stored: Stored) -> tuple[str, bytes]:
        """Return the extension and the bytes of an image. Raises Fault."""
        data = stored if isinstance(stored, bytes) else read_image(stored)
        if self.medium:
            opened = self.medium.open(data)
            self.medium.decode(opened)
            kind = opened.format.split()[0]
            return "npy" if data.startswith(MAGIC) else EXTENSIONS.get(kind, kind.lower()), data
        encoded = EncodedImage(data, DataConfig.max_pixels)
        short = min(encoded.size)
        if not self.short_side or short <= self.short_side:
            image = encoded.pixels((255, 255, 255))  # an image that cannot be decoded has no place in a shard
            if encoded.format in EXTENSIONS:
                return EXTENSIONS[encoded.format], data
            return "png", _encode(image, "PNG")
        image = encoded.pixels((255, 255, 255), short / self.short_side / 2)
        scale = self.short_side / min(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return "jpg", _encode(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=self.quality)


def pack(
    records: Iterator[Record],
    writer: ShardWriter,
    encoder: Callable[[Record], Packed],
    workers: int = 0,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    """Write the records that an earlier run has not dealt with; return what was written in all."""
    for _ in range(writer.done):
        next(records)
    at, ledger = writer.done, ledger or Ledger()
    encoded = run_ahead(encoder, records, workers)
    with writer:
        for at, packed in enumerate(track(encoded, "pack", disable=not sys.stderr.isatty()), writer.done + 1):
            ledger.add(packed.faults)
            for entry in packed.faults:
                writer.leave_out(entry.reason)
            if packed.members is not None:
                writer.add(f"{at - 1:09d}", packed.members, at)
        return writer.finish(at)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
