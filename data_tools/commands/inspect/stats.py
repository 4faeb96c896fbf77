"""Count what shards hold: samples, image sizes, captions, tokens."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmclr.data_tools.lib import contents, items, spread
from mmclr.data_tools.lib.medium import add_arguments, chosen, medium

from mmclr.data.pixels.array import Array
from mmclr.data.pixels.decode import LARGEST
from mmclr.data.pixels.medium import Medium
from mmclr.data.random import key
from mmclr.data.samples.captions import Chooser, identity, text_id
from mmclr.data.samples.images import Images
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.sources import expand
from mmclr.data.stream.permutation import permute, positions
from mmclr.display.secrets import redact_tree
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.storage import written

PERCENTILES = (0, 5, 50, 95, 100)


def main(argv: list[str]) -> None:
    """Print statistics of shards."""
    parser = argparse.ArgumentParser(
        description="Say what tar shards hold: samples and members, sizes and formats of images, lengths of captions "
        "in words and tokens, repeats. Counts of samples are exact; the rest is from a random part. With --write, mean "
        "and standard deviation of each band are measured and written as a config for base:.",
        epilog="example: mmclr data stats 'shards/*.tar' --caption json:title; of X-rays of 12 bits also: "
        "--channels 1 --intensity '{low: 0, high: 4095}' --write xrays.yaml",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    parser.add_argument("--tokenizer", default="clip", help='"clip" or a tokenizer folder (default clip)')
    parser.add_argument("--samples", type=int, default=2000, help="how many are looked into (default 2000; 0 = all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    items.add_arguments(parser)
    add_arguments(parser)
    parser.add_argument("--write", metavar="FILE", help="YAML with model.image.mean and .std as measured")
    parser.add_argument("--size", type=int, default=224, help="pixels of the model for which they are (default 224)")
    args = parser.parse_args(argv)
    if args.write:
        written.check(args.write, spread.KIND)
    indices = open_indices(expand(args.shards))
    how, images = medium(args, max_pixels=LARGEST), items.chosen(args)
    found = contents.facts(indices)
    seen = look(indices, args.caption, Tokenizer.load(args.tokenizer), args.samples, how, images)
    if args.write:
        seen["bands"] = write(args, indices)
    if args.json:
        say(json.dumps(redact_tree({**found, "looked_into": seen})))
        return
    for line in (*contents.lines(found), *lines(seen)):
        say(line)


def write(args: argparse.Namespace, indices: Sequence[ShardIndex]) -> dict[str, Any]:
    """Measure the bands of a random part of the images, and write what a config takes. Raises UserError."""
    ledger, how, images = Ledger(), medium(args, args.size), items.chosen(args)
    shards = items.open_shards(indices, images, how.members, beside=how.beside, ledger=ledger)
    measured = spread.measure(shards, some(len(shards), args.samples), how, ledger, images)
    if not measured.images:
        raise UserError(
            "\n".join([f"none of the images can be measured for {args.write}", *ledger.lines(met="left out")])
        )
    seen = f"arrays as a model of {how.size} steps" if args.array else f"images as a model of {args.size} px"
    what = f"{measured.images:,} of {len(shards):,} {seen} sees them (mmclr data stats)"
    if images.several:
        what = f"{measured.images:,} {seen} sees them, of {len(shards):,} samples (mmclr data stats)"
    written.write(args.write, spread.text(measured, chosen(args), what), spread.KIND)
    return {**measured._asdict(), "file": args.write, "constant": spread.constant(measured)}


def some(total: int, most: int) -> list[int]:
    """Return `most` numbers below `total`, drawn the same way every time; all of them where `most` is 0."""
    count = min(most or total, total)
    drawn: list[int] = np.sort(permute(positions(0, count), total, key(np.zeros(count, np.int64)))).tolist()
    return drawn


def look(
    indices: Sequence[ShardIndex],
    caption: str,
    tokenizer: Tokenizer,
    most: int,
    medium: Medium,
    images: Images,
) -> dict[str, Any]:
    """Return facts about a random part of the samples (`most` 0: all); what cannot be read is counted."""
    ledger = Ledger()
    shards = items.open_shards(indices, images, medium.members, caption=caption, beside=medium.beside, ledger=ledger)
    chooser = Chooser({caption: 1.0})
    numbers = some(len(shards), most)
    sizes, bytes_, images_each = [], [], []
    formats: Counter[str] = Counter()
    ids: Counter[Any] = Counter()
    texts: list[str] = []
    captions_each = []
    for number in numbers:
        lost: list[Fault] = []
        try:
            sample = shards.read(number)
            opened = items.each(sample, images, medium, lambda *image: image, lost)
            found = [text for _, part in chooser.candidates(sample, lost) for text in part]
        except Fault as fault:
            ledger.add([shards.entry(number, fault)])
            continue
        ledger.add(shards.entry(number, fault) for fault in lost)
        images_each.append(len(opened))
        for data, image in opened:
            sizes.append(image.size)
            bytes_.append(len(data))
            formats[image.format] += 1
            ids[identity(data)] += 1
        captions_each.append(len(found))
        texts += found
    width, height = np.array(sizes).reshape(-1, 2).T
    tokens = np.array([len(ids) for ids in tokenizer.encode(texts)]) if sizes else np.array([])
    same = Counter(map(text_id, texts))
    return {
        "looked_into": len(numbers),
        "samples": len(shards),
        "formats": dict(formats.most_common()),
        "numbers": _spreads(
            {
                **_sides(width, height, medium),
                "bytes of an image": bytes_,
                **({"images of a sample": images_each} if images.several else {}),
                "captions of a sample": captions_each,
                "words of a caption": [len(text.split()) for text in texts],
                "tokens of a caption": tokens,
            }
        ),
        "images that repeat another": sum(n - 1 for n in ids.values()),
        "captions that repeat another": sum(n - 1 for n in same.values()),
        "context": tokenizer.context,
        "captions that fill the context": int((tokens >= tokenizer.context).sum()),
        "left_out": dict(ledger.counts),
        "why": list(ledger.lines(met="left out")),
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of what `look` found."""
    yield f"{found['looked_into']:,} of {found['samples']:,} samples looked into:"
    if found["formats"]:
        yield f"  formats: {', '.join(f'{name} {n:,}' for name, n in found['formats'].items())}"
        for name, spread in found["numbers"].items():
            low, p5, middle, p95, high = spread["percentiles"]
            about = f"mean {spread['mean']:,.1f}, middle 90 %: {p5:,.0f} {middle:,.0f} {p95:,.0f}"
            yield f"  {name}: {low:,.0f} to {high:,.0f}, {about}"
        for name in ("images that repeat another", "captions that repeat another"):
            yield f"  {name}: {found[name]:,}"
        cut = found["captions that fill the context"]
        yield f"  captions that fill the context of {found['context']} (and may be cut): {cut:,}"
    if "bands" in found:
        bands, digits = found["bands"], ".5g" if "steps" in found["numbers"] else ".4f"
        for number, (mean, std) in enumerate(zip(bands["mean"], bands["std"]), 1):
            yield f"  band {number}: mean {mean:{digits}}, standard deviation {std:{digits}}"
        for number in bands["constant"]:
            yield f"  band {number} has one value everywhere; 1 is written for its standard deviation"
        yield f"  {bands['file']}: mean and std of {bands['images']:,} images"
    yield from (f"  {line}" for line in found["why"])


def _sides(width: np.ndarray, height: np.ndarray, medium: Medium) -> dict[str, Any]:
    """Return what the sizes of images, or of arrays, are called."""
    if isinstance(medium, Array):
        return {"steps": width, "channels": height}
    return {"width, px": width, "height, px": height, "short side, px": np.minimum(width, height)}


def _spreads(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spread of each list of numbers that is not empty."""
    return {name: _spread(np.asarray(own)) for name, own in values.items() if len(own)}


def _spread(values: np.ndarray) -> dict[str, Any]:
    return {"mean": float(values.mean()), "percentiles": np.percentile(values, PERCENTILES).tolist()}
