"""Count what shards hold: samples, image sizes, captions, tokens."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmclr.data_tools.lib import contents

from mmclr.data.pixels.choose import choose
from mmclr.data.pixels.decode import LARGEST
from mmclr.data.random import key
from mmclr.data.samples import absent
from mmclr.data.samples.captions import Chooser, extensions, identity, text_id
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.permutation import permute, positions
from mmclr.display.secrets import redact_tree
from mmclr.display.terminal import say

PERCENTILES = (0, 5, 50, 95, 100)


def main(argv: list[str]) -> None:
    """Print statistics of shards."""
    parser = argparse.ArgumentParser(
        description="Say what tar shards hold: samples and members, sizes and formats of images, lengths of captions "
        "in words and tokens, repeats. Counts of samples are exact; the rest is from a random part.",
        epilog="example: mmclr data stats 'shards/*.tar' --caption json:title",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    parser.add_argument("--tokenizer", default="clip", help='"clip" or a tokenizer folder (default clip)')
    parser.add_argument("--samples", type=int, default=2000, help="how many are looked into (default 2000; 0 = all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    args = parser.parse_args(argv)
    indices = open_indices(expand(args.shards))
    found, seen = contents.facts(indices), look(indices, args.caption, Tokenizer.load(args.tokenizer), args.samples)
    if args.json:
        say(json.dumps(redact_tree({**found, "looked_into": seen})))
        return
    for line in (*contents.lines(found), *lines(seen)):
        say(line)


def look(indices: Sequence[ShardIndex], caption: str, tokenizer: Tokenizer, most: int = 0) -> dict[str, Any]:
    """Return facts about a random part of the samples (`most` 0: all); what cannot be read is counted."""
    ledger, medium = Ledger(), choose(1, max_pixels=LARGEST)
    shards = Shards(indices, extensions([caption]), (), ledger)
    absent.check([shards], {"--caption": [caption]})
    chooser = Chooser({caption: 1.0})
    count = min(most or len(shards), len(shards))
    numbers = permute(positions(0, count), len(shards), key(np.zeros(count, np.int64)))
    sizes, bytes_ = [], []
    formats: Counter[str] = Counter()
    images: Counter[Any] = Counter()
    texts: list[str] = []
    captions_each = []
    for number in np.sort(numbers).tolist():
        lost: list[Fault] = []
        try:
            sample = shards.read(number)
            data = sample.image(medium.members)
            image = medium.open(data, sample.members)
            found = [text for _, part in chooser.candidates(sample, lost) for text in part]
        except Fault as fault:
            ledger.add([shards.entry(number, fault)])
            continue
        ledger.add(shards.entry(number, fault) for fault in lost)
        sizes.append(image.size)
        bytes_.append(len(data))
        formats[image.format] += 1
        images[identity(data)] += 1
        captions_each.append(len(found))
        texts += found
    width, height = np.array(sizes).reshape(-1, 2).T
    tokens = np.array([len(ids) for ids in tokenizer.encode(texts)]) if sizes else np.array([])
    same = Counter(map(text_id, texts))
    return {
        "looked_into": count,
        "samples": len(shards),
        "formats": dict(formats.most_common()),
        "numbers": {
            name: _spread(np.asarray(values))
            for name, values in {
                "width, px": width,
                "height, px": height,
                "short side, px": np.minimum(width, height),
                "bytes of an image": bytes_,
                "captions of a sample": captions_each,
                "words of a caption": [len(text.split()) for text in texts],
                "tokens of a caption": tokens,
            }.items()
            if len(values)
        },
        "images that repeat another": sum(n - 1 for n in images.values()),
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
    yield from (f"  {line}" for line in found["why"])


def _spread(values: np.ndarray) -> dict[str, Any]:
    return {"mean": float(values.mean()), "percentiles": np.percentile(values, PERCENTILES).tolist()}
