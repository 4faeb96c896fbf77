"""Take a released CLIP or SigLIP in as a model folder, compared with its own library."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmclr.display.terminal import say
from mmclr.export import parity
from mmclr.export.origin import Source, written
from mmclr.models.foreign.inputs import fill, valid
from mmclr.models.foreign.libraries.transformers import quiet
from mmclr.models.formats import find

Encode = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]  # pixels; ids and lengths


def main(argv: list[str]) -> None:
    """`mmclr import SOURCE OUT`."""
    parser = argparse.ArgumentParser(
        description="Write a CLIP or SigLIP of transformers or open_clip as a model folder of mmclr, with its "
        "tokenizer, after comparing its features with those of its own library. Training can start from it "
        "(init.source=OUT model.preset=OUT tokenizer=OUT), evaluations read it, exports write it. Only safetensors "
        "are read.",
        epilog="example: mmclr import open_clip:ViT-B-32/laion2b_s34b_b79k clip-b32; or "
        "openai/clip-vit-base-patch32, or a folder. The other commands take such names and folders directly, too.",
    )
    parser.add_argument("source", help="a folder, owner/name on the Hub, or open_clip:ARCHITECTURE/TAG")
    parser.add_argument("out", help="folder to write; it must not exist, or be an earlier import")
    args = parser.parse_args(argv)
    for name, value in write(args.source, Path(args.out)).items():
        say(f"{name.replace('_', ' ')}: {value:.3g}")
    say(f"{args.out}: a model folder that agrees with {args.source}")


def write(name: str | Path, out: Path) -> dict[str, float]:
    """Write a model folder and return the largest differences to what its own library computes."""
    source = Source.open(name)
    with written(out, source, by="import") as partial:
        source.model.save(partial)
        source.tokenizer.save(partial)
        differences = compare(source, Source.open(partial))
        parity.insist(source, differences, partial)
    return differences


@torch.no_grad()
def compare(source: Source, ours: Source) -> dict[str, float]:
    """Return the largest differences of features between a model as its library loads it and as it was written."""
    image, text = (_of_open_clip if find.is_open_clip(source.folder) else _of_transformers)(source)
    c = ours.model.config.image
    pixels = parity.prepare(parity.examples(c), c)
    ids, lengths = ours.tokenizer(parity.HARD_STRINGS)
    return {
        "image_features": parity.largest(ours.model.encode_image(pixels), parity.unit(image(pixels))),
        "text_features": parity.largest(ours.model.encode_text(ids, lengths), parity.unit(text(ids, lengths))),
    }


def _of_open_clip(source: Source) -> Encode:
    import open_clip

    model = open_clip.create_model(f"local-dir:{source.folder}").eval()
    c = source.model.config.text
    pad = 0 if c.foreign and c.foreign.architecture["text_cfg"].get("embed_cls") else c.pad

    def text(ids: Tensor, lengths: Tensor) -> Tensor:
        return model.encode_text(fill(ids, lengths, c.context, pad))

    return model.encode_image, text


def _of_transformers(source: Source) -> Encode:
    from transformers import AutoModel

    from mmclr.export.commands.transformers import pooled

    with quiet():
        model = AutoModel.from_pretrained(source.folder, use_safetensors=True, dtype=torch.float32).eval()
    c = source.model.config.text
    context = c.context if c.foreign is not None and c.foreign.padding == "context" else None

    def text(ids: Tensor, lengths: Tensor) -> Tensor:
        if context is not None:
            return pooled(model.get_text_features(input_ids=fill(ids, lengths, context, c.pad)))
        mask = valid(lengths, ids.shape[1]).long()
        return pooled(model.get_text_features(input_ids=ids, attention_mask=mask))

    return lambda x: pooled(model.get_image_features(pixel_values=x)), text
