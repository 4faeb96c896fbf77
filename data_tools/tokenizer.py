"""`mmclr data tokenizer`: learn a small BPE tokenizer from the captions of shards."""

from __future__ import annotations

import argparse

from mmclr.data.loader import captions
from mmclr.data.text import Tokenizer


def main(argv: list[str]) -> None:
    """Read the captions of shards and write a tokenizer folder that `tokenizer:` in a config can name."""
    parser = argparse.ArgumentParser(
        description="Learn a byte-level BPE tokenizer from the captions of tar shards. Worth it for small data and "
        "special language: fewer tokens per caption, a smaller embedding. Name the folder in a config: tokenizer: OUT"
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--size", type=int, default=4000, help="tokens, of which 512 are bytes (default 4000)")
    parser.add_argument("--context", type=int, default=77, help="longest caption in tokens (default 77)")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.train(captions(args.shards, args.caption), args.size, args.context)
    tokenizer.save(args.out)
    print(f"{args.out}: {tokenizer.vocab_size} tokens, context {tokenizer.context}")
