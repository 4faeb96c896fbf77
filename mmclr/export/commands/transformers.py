"""Write a folder that AutoModel and AutoProcessor of transformers load without mmclr."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr.display.terminal import say
from mmclr.export import arrays, captioner, card, forms, image_pool, parity
from mmclr.export.format import WIDE, Format
from mmclr.export.origin import DTYPES, Source, add_arguments, written
from mmclr.models.foreign.libraries.transformers import quiet
from mmclr.models.formats.pixels import OURS
from mmclr.models.formats.transformers import preprocessor
from mmclr.models.formats.weights import write_weights

PROCESSORS = {
    "clip": "CLIPProcessor",
    "siglip": "SiglipProcessor",
    "vision-text-dual-encoder": "VisionTextDualEncoderProcessor",
}

USE = """\
```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
inputs = processor(text={captions}, images={image}, return_tensors="pt", padding={pad})
with torch.no_grad():
    print(model(**inputs).logits_per_image.{head}(-1))
```"""
FORMAT = Format(WIDE, "transformers", USE, arrays.USE, captioner=True)


def main(argv: list[str]) -> None:
    """`mmclr export transformers CHECKPOINT OUT`."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as a transformers folder: CLIPModel (SiglipModel or VisionTextDualEncoderModel "
        "where the towers are of other kinds), processor, tokenizer, model card. A captioner becomes a model of its "
        "own, OUT/captioner, and so does a learnt pool of several images, OUT/image_pool. The folder is loaded back "
        "and compared with the checkpoint before it gets its name.",
        epilog="example: mmclr export transformers runs/demo my-clip, and then in Python: "
        "AutoModel.from_pretrained('my-clip')",
    )
    add_arguments(parser)
    parser.add_argument("out", help="folder to write; it must not exist, or be an earlier export")
    parser.add_argument(
        "--halves",
        action="store_true",
        help="also write OUT/image and OUT/text: CLIPVisionModelWithProjection and CLIPTextModelWithProjection",
    )
    args = parser.parse_args(argv)
    source = Source.open(args.checkpoint, args.weights, args.dtype, args.head)
    about = card.About(args.results, args.license)
    for name, value in write(source, Path(args.out), about, args.halves).items():
        say(f"largest difference of {name.replace('_', ' ')}: {value:.3g}")
    say(f"{args.out}: a transformers folder that agrees with {args.checkpoint}")


def export(checkpoint: Path, out: Path, weights: str = "auto") -> dict[str, float]:
    """Write `out` and return the largest differences to the checkpoint, by name (see `parity`)."""
    return write(Source.open(checkpoint, weights), out)


def write(source: Source, out: Path, about: card.About | None = None, halves: bool = False) -> dict[str, float]:
    """Write a transformers folder and return the largest differences to its source."""
    with written(out, source) as partial:
        fill(source, partial)
        differences = parity.compare(source, load(partial))
        if halves:
            _write_halves(source, partial)
        parity.insist(source, differences, partial)
        card.write(partial, source, differences, out.name, about or card.About(), FORMAT)
    return differences


def fill(source: Source, folder: Path) -> None:
    """Write config, weights, tokenizer and processor, and the folders of captioner and pool."""
    import transformers

    tree, state = forms.form(source.model)
    dtype = DTYPES[source.dtype]
    tree["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(tree, indent=2))
    write_weights({name: value.to(dtype) for name, value in state.items()}, folder / "model.safetensors")
    _save_tokenizer(source, folder, masked=tree["model_type"] != "siglip")
    pixels = preprocessor(source.model.config.image)
    if source.model.config.image.array is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=2))
        arrays.add_code(folder)
        image_pool.fill(source, folder)
        return
    images = getattr(transformers, pixels.pop("image_processor_type"))(**pixels)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    getattr(transformers, PROCESSORS[tree["model_type"]])(images, tokenizer).save_pretrained(folder)
    captioner.fill(source, folder)
    image_pool.fill(source, folder)


def _save_tokenizer(source: Source, folder: Path, masked: bool) -> None:
    """Write the tokenizer; for a text tower that was trained without a mask, one that makes none."""
    source.tokenizer.save(folder)
    if not masked:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": ["input_ids"]}, indent=2))


def load(folder: Path) -> parity.Peer:
    """Return what transformers makes of a folder, in float32."""
    from transformers import AutoImageProcessor, AutoModel, AutoProcessor

    if arrays.holds(folder):
        return _load_arrays(folder)
    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    plain = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    padding: Any = "max_length" if model.config.model_type == "siglip" else True

    def text(texts: list[str]) -> Tensor:
        inputs = processor.tokenizer(texts, padding=padding, truncation=True, return_tensors="pt")
        return pooled(model.get_text_features(**inputs))

    def pixels(make: Any) -> Any:
        return lambda images: make(images, return_tensors="pt")["pixel_values"]

    return parity.Peer(
        image=lambda x: pooled(model.get_image_features(pixel_values=x)),
        text=text,
        ids=lambda texts: processor.tokenizer(texts, truncation=True)["input_ids"],
        pixels={"pixels": pixels(processor.image_processor)}
        if hasattr(plain, OURS)  # deep pixels, which Pillow's way is not made for
        else {"pixels": pixels(plain), "pixels_torchvision": pixels(processor.image_processor)},
        captions=captioner.load(folder),
        pool=image_pool.load(folder),
    )


def _load_arrays(folder: Path) -> parity.Peer:
    """Return what transformers makes of a folder of arrays."""
    from transformers import AutoTokenizer

    model, tokenizer = arrays.load(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return parity.Peer(
        image=lambda x: model(array_values=x).array_embeds,
        text=lambda texts: model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).text_embeds,
        ids=lambda texts: tokenizer(texts, truncation=True)["input_ids"],
        pixels=arrays.prepared(model),
        pool=image_pool.load(folder),
    )


def _write_halves(source: Source, folder: Path) -> None:
    import transformers

    for name, make in forms.halves(source.model).items():
        forms.save(make(), folder / name, DTYPES[source.dtype])
        if name == "text":
            source.tokenizer.save(folder / name)
        else:
            pixels = preprocessor(source.model.config.image)
            getattr(transformers, pixels.pop("image_processor_type"))(**pixels).save_pretrained(folder / name)


def pooled(output: Any) -> Tensor:
    """Return the features; transformers 5 wraps them in an output object."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
