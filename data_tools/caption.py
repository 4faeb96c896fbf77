"""Write captions of images with a trained captioner, one line of JSON each."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from rich.progress import Progress

from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.skipped import Entry, Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.workers import run_ahead
from mmclr.data.tabular.rows import read_image
from mmclr.display.console import Console
from mmclr.display.terminal import say
from mmclr.encoder import Encoder, Prepared
from mmclr.errors import UserError
from mmclr.models.captioning.decoding import Decoding, add_arguments, decoding
from mmclr.storage.written import claim

EXAMPLES = """examples:
  mmclr caption runs/coca cat.jpg holiday/                            to the terminal
  mmclr caption runs/coca 'shards/*.tar' --out captions.jsonl --beams 4
"""


def main(argv: list[str]) -> None:
    """`mmclr caption MODEL IMAGES...`."""
    parser = argparse.ArgumentParser(
        description="Write captions with a model that was trained with model.captioner. Each line of the output is "
        '{"image": ..., "caption": ...}, or "error" in place of the caption where an image cannot be read. With '
        "--out, a command that was stopped goes on where it was.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a run, checkpoint, model folder or export")
    parser.add_argument("images", nargs="+", help="files, folders (with all below), and shards: braces, globs, ::")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSONL to write; default: the terminal")
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=64, help="images at a time (default 64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_intermixed_args(argv)
    encoder, how = Encoder.load(args.model, device=args.device), decoding(args)
    images = open_images(args.images, encoder.medium)
    out = claim(args.out, "captions", _is_line) if args.out else None
    done = _done(out, images)
    ledger = Ledger()
    with open(out, "a", encoding="utf-8") if out else contextlib.nullcontext(sys.stdout) as file:
        for number, caption in written(encoder, images, done, how, args.batch):
            if isinstance(caption, Fault):
                ledger.add([images.entry(number, caption)])
            _print(file, images.names[number], caption)
    told = f"{args.out}: {len(images):,} images" if args.out else f"{len(images):,} images"
    say(f"{told}, {ledger.lost} of them unreadable" if ledger.lost else told, file=sys.stderr)
    for line in ledger.lines(met="without a caption"):
        say(line, file=sys.stderr)


@dataclass(frozen=True)
class Images:
    """Files, and samples of shards."""

    names: list[str]
    places: list[Path | tuple[Shards, int]]

    def __len__(self) -> int:
        return len(self.names)

    def entry(self, number: int, fault: Fault) -> Entry:
        """Return the ledger's line for a fault of an image."""
        place = self.places[number]
        if isinstance(place, Path):
            return Entry(str(place), 0, "", fault.reason, fault.detail)
        return place[0].entry(place[1], fault)

    def read(self, number: int, medium: Medium) -> tuple[bytes, Mapping[str, bytes]]:
        """Return an image's bytes, and the members or files beside it. Raises Fault."""
        place = self.places[number]
        if isinstance(place, Path):
            return read_image(place), medium.lying_beside(place)
        sample = place[0].read(place[1])
        return sample.image(medium.members), sample.members


def open_images(sources: Iterable[str], medium: Medium) -> Images:
    """Return the images that the command line names, in its order, those of a folder sorted."""
    found = Images([], [])
    for source in sources:
        for name, place in _open(source, medium):
            found.names.append(name)
            found.places.append(place)
    return found


def _open(source: str, medium: Medium) -> Iterator[tuple[str, Path | tuple[Shards, int]]]:
    path = Path(source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower().lstrip(".") in medium.members]
        if not files:
            known = ", ".join(medium.members)
            raise UserError(f"{source}: no images in this folder ({known}); for its shards: {source}/*.tar")
        yield from ((str(file), file) for file in files)
    elif path.is_file() and path.suffix != ".tar":
        yield source, path
    elif path.suffix.lower().lstrip(".") in medium.members and not set(source) & set("*{:"):
        raise UserError(f"{source}: there is no such file")
    else:
        shards = Shards(open_indices(expand(source)), (), medium.beside, Ledger(), medium.members)
        for number in range(len(shards)):
            entry = shards.where(number)
            yield f"{entry.shard}#{entry.key}", (shards, number)


def written(
    encoder: Encoder, images: Images, start: int, how: Decoding, batch: int
) -> Iterator[tuple[int, str | Fault]]:
    """Yield (number, caption) from `start` on; a Fault in place of the caption where there is no image.

    Batches begin at multiples of `batch` and each has its own seed: a run that goes on draws what a whole one does.
    """

    def read(first: int) -> list[Prepared | Fault]:
        return [_read(encoder, images, number) for number in range(first, min(first + batch, len(images)))]

    starts = range(start // batch * batch, len(images), batch)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        bar = bars.add_task("captions", total=len(images), completed=start)
        for first, found in zip(starts, run_ahead(read, starts, workers=0)):
            good = [image for image in found if not isinstance(image, Fault)]
            captions = iter(encoder.caption(good, replace(how, seed=how.seed + first), batch=batch) if good else ())
            for number, image in enumerate(found, first):
                caption = image if isinstance(image, Fault) else next(captions)
                if number >= start:
                    yield number, caption
            bars.update(bar, completed=first + len(found))


def _read(encoder: Encoder, images: Images, number: int) -> Prepared | Fault:
    try:
        return encoder.prepare(*images.read(number, encoder.medium))
    except Fault as fault:
        return fault


def _done(out: Path | None, images: Images) -> int:
    """Return how many images a file has lines of already; they must be the first of these."""
    if out is None or not out.is_file():
        return 0
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        names = [_name(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{out}: has lines that are no captions of ours; name another file, or delete it") from None
    if names != images.names[: len(names)]:
        raise UserError(f"{out} has captions of other images; name another file, or delete it")
    if whole != data:  # the last line was cut short
        os.truncate(out, len(whole))
    return len(names)


def _is_line(start: bytes) -> bool:
    """Whether a file begins as one that we wrote."""
    try:
        return bool({"image", "picture"} & json.loads(start.split(b"\n")[0]).keys())
    except (ValueError, TypeError, AttributeError):
        return False


def _name(line: dict[str, str]) -> str:
    """Return the name of a line's image, which version 0.1 called `picture`."""
    return line["image"] if "image" in line else line["picture"]


def _print(file: IO[str], name: str, caption: str | Fault) -> None:
    said = {"error": str(caption.detail)} if isinstance(caption, Fault) else {"caption": caption}
    file.write(json.dumps({"image": name, **said}, ensure_ascii=False) + "\n")
    file.flush()
