"""Put several trained models side by side as one (MCL), for mmclr.load and mmclr eval."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.origin import Source, written
from mmclr.models import ensemble
from mmclr.models.ensemble import Stages


def main(argv: list[str]) -> None:
    """`mmclr export stages RUN RUN ... OUT`."""
    parser = argparse.ArgumentParser(
        description="Put the embeddings of several models side by side, so that the similarity of an image and a text "
        "is the mean of what the models say: the stages of MCL, or any models with the same tokenizer and images. "
        "The folder is loaded back and compared before it gets its name.",
        epilog="example: mmclr export stages runs/stage0 runs/stage1 stages, and then mmclr eval retrieval stages ...",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="runs, checkpoints, model folders or names")
    parser.add_argument("out", help="folder to write; it must not exist, or be an earlier export")
    parser.add_argument("--weights", choices=["auto", "average", "model"], default="auto", help="of checkpoints")
    args = parser.parse_intermixed_args(argv)
    difference = write([Source.open(model, args.weights) for model in args.models], Path(args.out))
    say(f"{args.out}: {len(args.models)} models side by side; largest difference to their mean: {difference:.3g}")


def write(sources: Sequence[Source], out: Path) -> float:
    """Write the folder; return the largest difference of its similarities to the mean of the models'."""
    names = parity.strings(200)
    for source in sources[1:]:
        if source.tokenizer.encode(names) != sources[0].tokenizer.encode(names):
            raise UserError(f"{source.folder}: its tokenizer is another than that of {sources[0].folder}")
    with written(out, *sources) as partial:
        Stages([source.model for source in sources]).save(partial)
        sources[0].tokenizer.save(partial)
        difference = _compare(sources, partial)
        parity.insist(sources[0], {"similarity": difference}, partial)
    return difference


@torch.inference_mode()
def _compare(sources: Sequence[Source], folder: Path) -> float:
    config = sources[0].model.config.image
    pixels = parity.prepare(parity.examples(config), config)
    tokens, lengths = sources[0].tokenizer(parity.HARD_STRINGS)
    each = [source.model.encode_image(pixels) @ source.model.encode_text(tokens, lengths).T for source in sources]
    read = ensemble.load(folder)
    mean = torch.stack(each).mean(0)
    return parity.largest(read.encode_image(pixels) @ read.encode_text(tokens, lengths).T, mean)
