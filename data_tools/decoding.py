"""How captions are to be written, as options of a command."""

from __future__ import annotations

import argparse

from mmclr.config import check
from mmclr.models.writer import Decoding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `decoding` reads, the batch, and the device."""
    parser.add_argument("--beams", type=int, default=1, help="captions followed at a time; 1 is greedy (default 1)")
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.0,
        help="draw from the likeliest tokens of this probability (default 0: do not)",
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="of the draws (default 1)")
    parser.add_argument("--min-tokens", type=int, default=0, help="shortest caption (default 0)")
    parser.add_argument("--max-tokens", type=int, default=0, help="longest (default 0: what the text tower reads)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--batch", type=int, default=64, help="pictures at a time (default 64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def decoding(args: argparse.Namespace) -> Decoding:
    """Return what the arguments say. Raises ConfigError where they contradict each other."""
    names = ("beams", "top_p", "temperature", "min_tokens", "max_tokens", "seed")
    return check(Decoding, {name: getattr(args, name) for name in names})
