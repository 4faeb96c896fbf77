"""The origin of an export: the weights of a run, checkpoint or model folder, and the tokenizer that lies with them."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from mmclr.data.samples.text import Tokenizer
from mmclr.load_model import open_model
from mmclr.models.two_tower import TwoTower
from mmclr.storage.written import folder

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Source:
    """A model in float32 (its weights already rounded to `dtype`), and where it came from."""

    model: TwoTower  # its encoders alone
    tokenizer: Tokenizer
    folder: Path
    dtype: str = "float32"
    captioner: TwoTower | None = None  # the model with its captioner, if it has one: the same weights
    head: str = ""  # objective whose head the projections contain

    @classmethod
    def open(cls, source: str | Path, weights: str = "auto", dtype: str = "float32", head: str = "") -> Source:
        """Open a run, checkpoint, model folder or name; `weights`: auto, average or model; `head`: see `trained`."""
        found = open_model(source, weights, head)
        model, folder = found.plain().to(DTYPES[dtype]).float(), found.folder
        tokenizer = Tokenizer.load(folder, model.config.text.context)
        return cls(model.encoders(), tokenizer, folder, dtype, model if model.captioner is not None else None, head)


def add_arguments(parser: argparse.ArgumentParser, dtype: bool = True) -> None:
    """Add what all exports ask."""
    parser.add_argument("checkpoint", help="a run's folder, one of its checkpoints, or any model folder or name")
    parser.add_argument(
        "--weights",
        choices=["auto", "average", "model"],
        default="auto",
        help="averaged weights, or those of the last step (auto: averaged if the run kept an average)",
    )
    parser.add_argument(
        "--head",
        default="",
        metavar="OBJECTIVE",
        help="the model behind the head with which the run trained this objective, where that is linear; always with "
        "the weights of the last step",
    )
    if dtype:
        parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the weights on disk")
    parser.add_argument("--results", nargs="*", default=[], metavar="JSON", help="results of evaluations, for the card")
    parser.add_argument("--license", default="", help="the model's licence, for the card (mit, apache-2.0, ...)")


def written(out: Path, *sources: Source, by: str = "export") -> contextlib.AbstractContextManager[Path]:
    """Give an empty folder beside `out` that takes its place at the end; see `mmclr.storage.written.folder`."""
    return folder(out, by, [source.folder for source in sources])
