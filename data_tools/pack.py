"""`mmclr data pack`: pictures and captions from folders and tables into tar shards."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import track

from data_tools.inputs import Record, read_records
from data_tools.shard_writer import ShardWriter
from mmclr.data.decode import Picture
from mmclr.data.ledger import Fault
from mmclr.data.settings import DataConfig
from mmclr.data.workers import run_ahead
from mmclr.terminal import say

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
FIRST_ERRORS = 5  # shown in full


def main(argv: list[str]) -> int:
    """Pack; the status is 1 when nothing could be packed."""
    parser = argparse.ArgumentParser(
        description="Write pictures and captions into tar shards (KEY.jpg, KEY.txt, KEY.json). SOURCE is a folder of "
        "pictures (caption: KEY.txt beside it, a field of KEY.json, or the name of its folder; img2dataset's `files` "
        "format is this), a .csv, .tsv, .jsonl or .parquet with columns for picture and caption, or a Hugging Face "
        "dataset saved to disk. A shard appears when it is complete; the same command goes on where it stopped.",
        epilog="example: mmclr data pack photos.csv shards --image filepath --caption title --short-side 256",
    )
    parser.add_argument("source")
    parser.add_argument("out", help="folder for the shards")
    parser.add_argument("--image", default="image", help="column of the picture: a path, or bytes (default image)")
    parser.add_argument("--caption", default="caption", help="column or json field of the caption (default caption)")
    parser.add_argument("--samples", type=int, default=10_000, help="samples in a shard (default 10000)")
    parser.add_argument("--megabytes", type=int, default=1000, help="or until it has this size (default 1000)")
    parser.add_argument(
        "--short-side",
        type=int,
        default=0,
        metavar="PX",
        help="write larger pictures smaller, as JPEG, so that training decodes less (0 = as they are)",
    )
    parser.add_argument("--quality", type=int, default=92, help="of the JPEG then (default 92)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read and encode (default 2)")
    parser.add_argument("--prefix", default="", help="of the names of the shards")
    args = parser.parse_args(argv)
    encoder = Encoder(args.short_side, args.quality)
    settings = {"source": str(Path(args.source).resolve()), "columns": [args.image, args.caption],
                "short_side": args.short_side, "quality": args.quality,
                "samples": args.samples, "megabytes": args.megabytes}  # fmt: skip
    writer = ShardWriter(args.out, settings, args.samples, args.megabytes * 1_000_000, args.prefix)
    if not writer.finished:
        pack(read_records(args.source, (args.image, args.caption)), writer, encoder, args.workers)
    written = sum(shard["samples"] for shard in writer.state["shards"])
    say(f"{args.out}: {len(writer.state['shards'])} shards, {written:,} samples")
    for reason, count in writer.state["left_out"].items():
        say(f"  {count:,} left out: {reason}")
    return int(written == 0)


@dataclass(frozen=True)
class Encoder:
    """Makes the members of a sample from a record; returns them, or a reason and a detail when it cannot."""

    short_side: int = 0
    quality: int = 92

    def __call__(self, record: Record) -> dict[str, bytes] | tuple[str, str]:
        where = record.fields.get("path") or record.image if not isinstance(record.image, bytes) else "bytes"
        if record.error:
            return "the record cannot be read", record.error
        if record.image is None:
            return "no picture", str(record.fields)[:80]
        if not record.captions:
            return "no caption", str(where)
        try:
            data = record.image if isinstance(record.image, bytes) else record.image.read_bytes()
            extension, data = self._picture(data)
        except OSError as error:
            return "the file cannot be read", f"{where}: {error.strerror or error}"
        except Fault as fault:
            return "the picture cannot be decoded", f"{where}: {fault.detail}"
        fields = dict(record.fields)
        if len(record.captions) > 1:
            fields["captions"] = record.captions
        return {
            extension: data,
            "txt": record.captions[0].strip().encode(),
            "json": json.dumps(fields, ensure_ascii=False).encode(),
        }

    def _picture(self, data: bytes) -> tuple[str, bytes]:
        picture = Picture(data, DataConfig.max_pixels)
        short = min(picture.size)
        if not self.short_side or short <= self.short_side:
            image = picture.pixels((255, 255, 255))  # a picture that cannot be decoded has no place in a shard
            return EXTENSIONS.get(picture.format) or "png", data if picture.format in EXTENSIONS else _encode(
                image, "PNG"
            )
        image = picture.pixels((255, 255, 255), short / self.short_side / 2)
        scale = self.short_side / min(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return "jpg", _encode(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=self.quality)


def pack(records: Iterator[Record], writer: ShardWriter, encoder: Encoder, workers: int = 0) -> dict[str, Any]:
    """Write the records that an earlier run has not dealt with; return what was written in all."""
    for _ in range(writer.done):
        next(records)
    shown = 0
    at = writer.done
    encoded = run_ahead(encoder, records, workers)
    with writer:
        for at, members in enumerate(track(encoded, "pack", disable=not sys.stderr.isatty()), writer.done + 1):
            if isinstance(members, dict):
                writer.add(f"{at - 1:09d}", members, at)
                continue
            writer.leave_out(members[0])
            shown += 1
            if shown <= FIRST_ERRORS:
                say(f"left out: {members[0]}: {members[1]}", file=sys.stderr)
        return writer.finish(at)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
