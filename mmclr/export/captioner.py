"""The captioner of an export: a model of its own in captioner/, which AutoModel loads and generate() makes write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmclr.export import forms
from mmclr.export.origin import DTYPES, Source
from mmclr.models.captioning import transformers_model
from mmclr.models.captioning.decoder import FOLDER
from mmclr.models.captioning.generate import Writer, to_generate
from mmclr.models.foreign.libraries.transformers import quiet
from mmclr.models.formats.transformers import preprocessor

CODE = "modeling_captioner"  # the file that machines without mmclr run
Write = Callable[[Tensor], list[list[int]]]  # pixels [n, C, H, W] -> the ids of each caption, without padding


def fill(source: Source, folder: Path) -> None:
    """Write captioner/ into the folder of an export: both towers and the decoder, code, tokenizer, processor."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPProcessor

    if source.captioner is None:
        return
    own = folder / FOLDER
    peer = to_generate(source.captioner)
    names = {"AutoConfig": transformers_model.CaptionerConfig, "AutoModel": transformers_model.CaptionerModel}
    peer.config.auto_map = {auto: f"{CODE}.{cls.__name__}" for auto, cls in names.items()}
    forms.save(peer, own, DTYPES[source.dtype])
    shutil.copy(transformers_model.__file__, own / f"{CODE}.py")
    source.tokenizer.save(own)
    pixels = preprocessor(source.model.config.image)
    del pixels["image_processor_type"]
    tokenizer = AutoTokenizer.from_pretrained(own, local_files_only=True)
    CLIPProcessor(CLIPImageProcessor(**pixels), tokenizer).save_pretrained(own)


def load(folder: Path) -> Write | None:
    """Return how an export writes captions, in float32; None where it has no captioner."""
    from transformers import AutoModel

    if not (folder / FOLDER).is_dir():
        return None
    with quiet():
        model = AutoModel.from_pretrained(folder / FOLDER, dtype=torch.float32, local_files_only=True)
    return lambda pixels: [
        row[: row.index(model.config.eos_token_id)] if model.config.eos_token_id in row else row
        for row in model.generate(pixel_values=pixels)[:, 1:].tolist()
    ]


def differing(source: Source, write: Write | None, pixels: Tensor) -> dict[str, float]:
    """Return how many captions an export writes otherwise than the checkpoint; {} where either has no captioner."""
    if source.captioner is None or write is None:
        return {}
    longest = source.captioner.config.text.context - 2
    ours = Writer(source.captioner)(pixels)
    return {"captions_that_differ": sum(a != b[:longest] for a, b in zip(ours, write(pixels), strict=True))}
