"""Write a folder that open_clip loads as `local-dir:`, and so CLIP_benchmark and DataComp."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.export import card, image_pool, parity
from mmclr.export.format import Format
from mmclr.export.origin import DTYPES, Source, add_arguments, written
from mmclr.models.formats import open_clip as form
from mmclr.models.formats.open_clip_weights import to_open_clip
from mmclr.models.formats.weights import write_weights

USE = """\
```python
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{name}")
tokenizer = open_clip.get_tokenizer("local-dir:{name}")
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open("image.png")).unsqueeze(0), normalize=True)
    text = model.encode_text(tokenizer({captions}), normalize=True)
    print((model.logit_scale.exp() * image @ text.T).softmax(-1))
```"""
FORMAT = Format(form.CONFIG, "open_clip", USE)


def main(argv: list[str]) -> None:
    """`mmclr export open_clip CHECKPOINT OUT`."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as an open_clip folder (open_clip_config.json, open_clip_model.safetensors, "
        "tokenizer, model card). open_clip loads it back and is compared with the checkpoint before it gets its name.",
        epilog="example: mmclr export open_clip runs/demo my-clip, and then: clip_benchmark eval --model "
        "local-dir:/path/to/my-clip --pretrained '' ... (open_clip's tokenizers first mend a string with ftfy, ours "
        "does not; how many strings that touches is in the report)",
    )
    add_arguments(parser)
    parser.add_argument("out", help="folder to write; it must not exist, or be an earlier export")
    args = parser.parse_args(argv)
    source = Source.open(args.checkpoint, args.weights, args.dtype, args.head)
    for name, value in write(source, Path(args.out), card.About(args.results, args.license)).items():
        say(f"largest difference of {name.replace('_', ' ')}: {value:.3g}")
    say(f"{args.out}: an open_clip folder that agrees with {args.checkpoint}")


def write(source: Source, out: Path, about: card.About | None = None) -> dict[str, float]:
    """Write an open_clip folder and return the largest differences to its source."""
    with written(out, source) as partial:
        fill(source, partial, out.name)
        differences = parity.compare(source, load(partial))
        parity.insist(source, differences, partial)
        card.write(partial, source, differences, out.name, about or card.About(), FORMAT)
    return differences


def fill(source: Source, folder: Path, name: str) -> None:
    """Write config, weights and tokenizer; `name` is where the tokenizer will be found, a repository's on the Hub."""
    model = source.model
    if image_pool.is_learnt(model):
        raise UserError(
            "open_clip has no place for the attention that pools several images of a sample (model.image_pool); "
            "`mmclr export transformers` and `mmclr export onnx` have one"
        )
    tree = form.write_config(model.config, bias=model.logit_bias is not None)
    tree["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = name  # anything: in a local folder open_clip looks there
    (folder / form.CONFIG).write_text(json.dumps(tree, indent=2))
    state = to_open_clip(model.state_dict(), model.config)
    write_weights({key: value.to(DTYPES[source.dtype]) for key, value in state.items()}, folder / form.WEIGHTS[0])
    source.tokenizer.save(folder)
    image_pool.fill(source, folder)


def load(folder: Path) -> parity.Peer:
    """Return what open_clip makes of a folder, in float32."""
    import open_clip
    from open_clip.tokenizer import get_clean_fn

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    pad, eos = tokenizer.tokenizer.pad_token_id, tokenizer.tokenizer.eos_token_id

    def ids(texts: list[str]) -> list[list[int]]:
        rows = tokenizer(texts).tolist()
        if pad == eos:  # the row ends at the first
            return [row[: row.index(eos) + 1] for row in rows]
        return [row[: row.index(pad)] if pad in row else row for row in rows]

    return parity.Peer(
        image=lambda x: model.encode_image(x),
        text=lambda texts: model.encode_text(tokenizer(texts)),
        ids=ids,
        pixels={"pixels": lambda images: torch.stack([transform(image) for image in images])},
        clean=get_clean_fn("whitespace"),
    )
