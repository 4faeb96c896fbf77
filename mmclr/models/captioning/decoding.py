"""The choice of a caption: a config, and the options of the commands that write captions."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le

from mmclr.config import check, config


@config
class Decoding:
    """The likeliest token each time, the likeliest of several captions followed at a time, or tokens drawn."""

    beams: Annotated[int, Ge(1)] = 1  # captions followed at a time; the likeliest per token wins
    top_p: Annotated[float, Ge(0), Le(1)] = (
        0.0  # draw from the likeliest tokens of this much probability; 0: do not draw
    )
    temperature: Annotated[float, Gt(0)] = 1.0  # of the draws
    min_tokens: Annotated[int, Ge(0)] = 0  # before a caption may end, start and end not counted
    max_tokens: Annotated[int, Ge(0)] = 0  # likewise, at most; 0: as many as the text tower reads
    seed: int = 0  # of the draws in each batch

    def __post_init__(self) -> None:
        if self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}")
        if self.top_p and self.beams > 1:
            raise ValueError("beams are for the likeliest caption and top_p for drawn ones: set one of the two")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `decoding` reads."""
    parser.add_argument("--beams", type=int, default=1, help="captions followed at a time; 1 is greedy (default 1)")
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.0,
        help="draw from the likeliest tokens of this much probability (default 0: not)",
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="of the draws (default 1)")
    parser.add_argument("--min-tokens", type=int, default=0, help="shortest caption (default 0)")
    parser.add_argument("--max-tokens", type=int, default=0, help="longest (default 0: what the text tower reads)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")


def decoding(args: argparse.Namespace) -> Decoding:
    """Return what the arguments say. Raises ConfigError where they contradict each other."""
    return check(Decoding, {field.name: getattr(args, field.name) for field in dataclasses.fields(Decoding)})
