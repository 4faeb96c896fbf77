"""Count what shards hold: samples, image sizes, captions, tokens."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from mmclr.data_tools.commands.inspect.index import describe

from mmclr.data.random import key
from mmclr.data.samples import absent
from mmclr.data.samples.captions import Chooser, extensions, identity, text_id
from mmclr.data.samples.decode import Picture
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.permutation import permute, positions
from mmclr.display.terminal import say

PERCENTILES = (0, 5, 50, 95, 100)


def main(argv: list[str]) -> None:
    """Print statistics of shards."""
    parser = argparse.ArgumentParser(
        description="Say what tar shards hold: samples and members, sizes and formats of pictures, lengths of captions "
        "in words and tokens, repeats. Counts of samples are exact; the rest is from a random part.",
        epilog="example: mmclr data stats 'shards/*.tar' --caption json:title",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    parser.add_argument("--tokenizer", default="clip", help='"clip" or a tokenizer folder (default clip)')
    parser.add_argument("--samples", type=int, default=2000, help="how many are looked into (default 2000; 0 = all)")
    args = parser.parse_args(argv)
    indices = open_indices(expand(args.shards))
    for line in describe(indices):
        say(line)
    for line in look(indices, args.caption, Tokenizer.load(args.tokenizer), args.samples):
        say(line)


def look(indices: Sequence[ShardIndex], caption: str, tokenizer: Tokenizer, most: int = 0) -> Iterator[str]:
    """Yield lines about a random part of the samples (`most` 0: all)."""
    ledger = Ledger()
    shards = Shards(indices, extensions([caption]), (), ledger)
    absent.check([shards], {"--caption": [caption]})
    chooser = Chooser({caption: 1.0})
    count = min(most or len(shards), len(shards))
    numbers = permute(positions(0, count), len(shards), key(np.zeros(count, np.int64)))
    sizes, bytes_, formats, pictures = [], [], Counter(), Counter()
    texts: list[str] = []
    captions_each = []
    for number in np.sort(numbers).tolist():
        lost: list[Fault] = []
        try:
            sample = shards.read(number)
            data = sample.image()
            picture = Picture(data, 1 << 40)
            found = [text for _, part in chooser.candidates(sample, lost) for text in part]
        except Fault as fault:
            ledger.add([shards.entry(number, fault)])
            continue
        ledger.add(shards.entry(number, fault) for fault in lost)
        sizes.append(picture.size)
        bytes_.append(len(data))
        formats[picture.format] += 1
        pictures[identity(data)] += 1
        captions_each.append(len(found))
        texts += found
    yield f"{count:,} of {len(shards):,} samples looked into:"
    if sizes:
        width, height = np.array(sizes).T
        yield f"  formats: {', '.join(f'{name} {n:,}' for name, n in formats.most_common())}"
        yield _row("width, px", width)
        yield _row("height, px", height)
        yield _row("short side, px", np.minimum(width, height))
        yield _row("bytes of a picture", np.array(bytes_))
        yield f"  pictures that repeat another: {sum(n - 1 for n in pictures.values()):,}"
        yield _row("captions of a sample", np.array(captions_each))
        yield _row("words of a caption", np.array([len(text.split()) for text in texts]))
        tokens = np.array([len(ids) for ids in tokenizer.encode(texts)])
        yield _row("tokens of a caption", tokens)
        cut = int((tokens >= tokenizer.context).sum())
        yield f"  captions that fill the context of {tokenizer.context} (and may be cut): {cut:,}"
        same = Counter(map(text_id, texts))
        yield f"  captions that repeat another: {sum(n - 1 for n in same.values()):,}"
    yield from (f"  {line}" for line in ledger.lines(met="left out"))


def _row(name: str, values: np.ndarray) -> str:
    low, p5, middle, p95, high = np.percentile(values, PERCENTILES)
    spread = f"middle 90 %: {p5:,.0f} {middle:,.0f} {p95:,.0f}"
    return f"  {name}: {low:,.0f} to {high:,.0f}, mean {values.mean():,.1f}, {spread}"
