"""`mmclr export transformers`: a folder that AutoModel and AutoProcessor load without mmclr."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.export import card, parity
from mmclr.models.two_tower import TwoTower, preprocessor, to_transformers


def main(argv: list[str]) -> None:
    """`mmclr export transformers CHECKPOINT OUT`."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as a transformers folder: CLIPModel, CLIPProcessor, tokenizer, model card. The "
        "folder is loaded back and compared before it is called done.",
        epilog="example: mmclr export transformers runs/demo my-clip, and then in Python: "
        "AutoModel.from_pretrained('my-clip')",
    )
    parser.add_argument("checkpoint", help="a run's folder, or one of its checkpoints")
    parser.add_argument("out", help="folder to write; must not exist, or be an earlier export")
    parser.add_argument(
        "--weights",
        choices=["auto", "average", "model"],
        default="auto",
        help="averaged weights or those of the last step (auto: averaged, if the run kept an average)",
    )
    args = parser.parse_args(argv)
    differences = export(Path(args.checkpoint), Path(args.out), args.weights)
    for name, value in differences.items():
        print(f"{name}: {value:.3g}")
    print(f"{args.out}: a transformers CLIP folder, equal to the checkpoint")


def export(checkpoint: Path, out: Path, weights: str = "auto") -> dict[str, float]:
    """Write `out` and return the largest differences to the checkpoint; see `parity` for what is compared."""
    from transformers import AutoModel, AutoProcessor, CLIPImageProcessor, CLIPProcessor

    source = find_weights(checkpoint, weights)
    model, tokenizer = TwoTower.load(source), Tokenizer.load(source)
    partial = _make_room(out)
    write_model(model, partial)
    tokenizer.save(partial)
    shape = {key: value for key, value in preprocessor(model.config.image).items() if key != "image_processor_type"}
    tokenizer_of_export = Tokenizer.load(partial).backend
    CLIPProcessor(CLIPImageProcessor(**shape), tokenizer_of_export).save_pretrained(partial)
    peer, processor = AutoModel.from_pretrained(partial), AutoProcessor.from_pretrained(partial)
    differences = parity.compare(model, tokenizer, peer, processor)
    parity.insist(differences, partial)
    card.write(partial, source, model, differences)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return differences
