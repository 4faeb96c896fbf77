"""Show random images with their captions, as one PNG or one HTML page."""

from __future__ import annotations

import argparse
import base64
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from mmclr.data_tools.lib import items
from mmclr.data_tools.lib.medium import add_arguments, medium
from PIL import Image, ImageDraw, ImageFont

from mmclr.data.pixels.medium import Medium
from mmclr.data.random import key
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.images import Images, usable
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Sample, Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.permutation import permute, positions
from mmclr.display.html import render
from mmclr.display.secrets import address
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.storage import written

SIDE, TEXT, GAP = 160, 54, 8  # pixels: of an image, of its caption below, between images
LINE = 26  # letters
KIND = "contact sheet"


class Look(NamedTuple):
    """One sample as people see it."""

    image: Image.Image
    captions: list[str]
    key: str


def main(argv: list[str]) -> None:
    """Write a contact sheet."""
    parser = argparse.ArgumentParser(
        description="Show random samples of shards: images with their captions, as a PNG or an HTML page. "
        "Several images of a sample (--image-members) stand in one place, smaller.",
        epilog="example: mmclr data peek 'shards/*.tar' sheet.png --samples 40",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="file.png or file.html")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    items.add_arguments(parser)
    add_arguments(parser)
    parser.add_argument("--samples", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    args = parser.parse_args(argv)
    suffix = Path(args.out).suffix.lower()
    if suffix not in (".png", ".html"):
        raise UserError(f"{args.out}: name a .png or .html file")
    written.check(args.out, KIND)
    ledger, seen, images = Ledger(), medium(args, SIDE), items.chosen(args)
    shards = items.open_shards(
        open_indices(expand(args.shards)),
        images,
        seen.members,
        caption=args.caption,
        beside=seen.beside,
        ledger=ledger,
    )
    found = list(looks(shards, args.caption, min(args.samples, len(shards)), args.seed, ledger, seen, images))
    data = page(found, address(args.shards)).encode() if suffix == ".html" else _png(sheet(found))
    written.write(args.out, data, KIND)
    say(f"{args.out}: {len(found)} of {len(shards):,} samples")
    for line in ledger.lines(met="left out"):
        say(line)


def looks(
    shards: Shards,
    caption: str,
    count: int,
    seed: int,
    ledger: Ledger,
    medium: Medium,
    images: Images,
) -> Iterator[Look]:
    """Yield random samples; those that cannot be read are counted in `ledger`, and so are images beside others."""
    chooser = Chooser({caption: 1.0})
    for number in permute(positions(0, count), len(shards), key(np.full(count, seed))).tolist():
        lost: list[Fault] = []
        try:
            sample = shards.read(number)
            image = _shown(sample, images.of(sample, medium.members, lost), medium, lost)
            yield Look(image, [text for _, texts in chooser.candidates(sample) for text in texts], sample.key)
        except Fault as fault:
            lost = [fault]
        ledger.add(shards.entry(number, fault) for fault in lost)


def _shown(sample: Sample, files: Sequence[bytes], medium: Medium, lost: list[Fault]) -> Image.Image:
    """Return the image of a sample, or its images row by row, in SIDE x SIDE pixels at most. Raises Fault."""
    across = math.ceil(math.sqrt(len(files)))
    side = SIDE // across
    shown = usable(files, lambda data: medium.show(medium.open(data, sample.members), side), lost)
    if len(files) == 1:
        return shown[0]
    out = Image.new("RGB", (across * side, -(-len(shown) // across) * side), (255, 255, 255))
    for place, image in enumerate(shown):
        x, y = place % across * side, place // across * side
        out.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    return out


def sheet(found: Sequence[Look], columns: int = 8) -> Image.Image:
    """Return images in a grid, each with its first caption below."""
    columns = min(columns, max(len(found), 1))
    rows = -(-len(found) // columns)
    size = (columns * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP)
    out = Image.new("RGB", size, (255, 255, 255))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    for place, look in enumerate(found):
        x = GAP + place % columns * (SIDE + GAP)
        y = GAP + place // columns * (SIDE + TEXT + GAP)
        out.paste(look.image, (x + (SIDE - look.image.width) // 2, y + SIDE - look.image.height))
        text = "\n".join(textwrap.wrap(look.captions[0], LINE)[:3])
        draw.multiline_text((x, y + SIDE + 2), text, fill=(40, 40, 40), font=font)
    return out


def page(found: Sequence[Look], title: str) -> str:
    """Return a self-contained HTML page."""
    cells = [
        {
            "image": Markup("data:image/png;base64," + base64.b64encode(_png(look.image)).decode()),
            "captions": look.captions,
            "key": look.key,
        }
        for look in found
    ]
    return str(render("peek.html", title=title, side=SIDE, looks=cells))


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
