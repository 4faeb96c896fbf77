"""Train a small BPE tokenizer on the captions of shards."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from mmclr.data.samples import absent
from mmclr.data.samples.captions import Chooser, extensions
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.display.terminal import say
from mmclr.storage import written


def main(argv: list[str]) -> None:
    """Read the captions of shards and write a tokenizer folder that `tokenizer:` in a config can name."""
    parser = argparse.ArgumentParser(
        description="Learn a byte-level BPE tokenizer from the captions of tar shards. Worth it for small data and "
        "special language: fewer tokens per caption, a smaller embedding. Name the folder in a config: tokenizer: OUT",
        epilog="example: mmclr data tokenizer 'shards/{00000..00099}.tar' my-tokenizer --size 8000",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--size", type=int, default=4000, help="tokens, of which 512 are bytes (default 4000)")
    parser.add_argument("--context", type=int, default=77, help="longest caption in tokens (default 77)")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    args = parser.parse_args(argv)
    ledger = Ledger()
    with written.folder(args.out, "tokenizer") as partial:
        tokenizer = Tokenizer.train(captions(args.shards, args.caption, ledger), args.size, args.context)
        tokenizer.save(partial)
    for line in ledger.lines(met="left out"):
        say(line)
    say(f"{args.out}: {tokenizer.vocab_size} tokens, context {tokenizer.context}")


def captions(urls: str | Sequence[str], caption: str, ledger: Ledger) -> Iterator[str]:
    """Yield every caption of the shards; samples whose caption cannot be read are counted in `ledger`."""
    chooser = Chooser({caption: 1.0})
    shards = Shards(open_indices(expand(urls)), extensions([caption]), (), ledger, images=False)
    absent.check([shards], {"--caption": [caption]})
    for number in range(len(shards)):
        lost: list[Fault] = []
        try:
            yield from (text for _, texts in chooser.candidates(shards.read(number), lost) for text in texts)
        except Fault as fault:
            lost = [fault]
        ledger.add(shards.entry(number, fault) for fault in lost)
