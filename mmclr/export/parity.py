"""Compare an exported folder with its checkpoint: features, token ids and pixels, side by side."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmclr.data.pixels.choose import choose
from mmclr.data.samples.reader import normalise
from mmclr.errors import UserError
from mmclr.export import arrays, captioner, image_pool
from mmclr.export.format import Format
from mmclr.export.origin import Source
from mmclr.load_model import open_model
from mmclr.models.config import ImageConfig
from mmclr.storage.manifest import sha256

REPORT = "parity.json"
# Told and not bound: another resampling than Pillow's, what a narrower type costs, what another tokenizer mends.
TOLD = ("pixels_torchvision", "rounding", "share_of_strings", "int8_", "float32_")
UNIT = {"low": 0.0, "high": 1.0}  # the intensity of `examples`
HARD_STRINGS = [
    "a photo of a cat",
    "",
    "  spaces \n and\ttabs ",
    "“curly” quotes and it’s",
    "Tom &amp; Jerry &lt;3",
    "mojibake: sâ€™il",
    "full ｗｉｄｔｈ ﬁne",
    "naïve Ünïcode İstanbul",
    "日本語 中文 한국어",
    "😀👩‍⚕️🏳️‍🌈",
    "<|endoftext|> in the middle <|startoftext|>",
    "x" * 500,
    "many words " * 100,
    "!! ... --- ###",
    "1234567890 3.14",
]


def strings(count: int = 1000) -> list[str]:
    """Return the hard strings and random ones from all of Unicode that captions are written in, always the same."""
    draw = random.Random(0)
    spans = [(32, 126), (160, 0x2FFF), (0x3040, 0x9FFF), (0xAC00, 0xD7A3), (0xFB00, 0xFB06), (0x1F300, 0x1FAFF)]
    made = ("".join(chr(draw.randint(*draw.choice(spans))) for _ in range(draw.randint(1, 12))) for _ in range(count))
    return [*HARD_STRINGS, *made]


def shapes(size: int) -> list[tuple[int, int]]:
    """Return widths and heights of images: the size itself, larger, longer, smaller."""
    return [(size, size), (size * 2, size), (size, size * 3 // 2), (size // 2 + 1, size // 2 + 1)]


def hard_images(size: int) -> list[Image.Image]:
    """Return images of several shapes and modes, the same every time."""
    draw = np.random.default_rng(0)
    rgb = [Image.fromarray(draw.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in shapes(size)]
    return [*rgb, rgb[0].convert("L").convert("RGB")]


def examples(c: ImageConfig) -> list[Any]:
    """Return images that a model takes, the same every time: RGB images of `hard_images`, deep ones, or arrays.

    Deep ones are float32 [C, H, W], so far from 0 and 1 that no resampling leaves [0, 1]: ours is cut there, and that
    of other libraries is not.
    """
    if c.array is not None:
        return list(arrays.examples(c))
    if not c.deep:
        return list(hard_images(c.size))
    draw = np.random.default_rng(0)
    return [draw.uniform(0.2, 0.8, (c.channels, h, w)).astype(np.float32) for w, h in shapes(c.size)]


def prepare(images: Sequence[Any], c: ImageConfig) -> Tensor:
    """Return the pixels [n, C, H, W] that our evaluation transform makes of images like `examples`, normalised."""
    medium = choose(dataclasses.replace(c, intensity=UNIT) if c.deep else c)
    made = np.stack([medium.plain(medium.given(image)) for image in images])
    return normalise(medium.batched(made), c.mean, c.std, axes=len(medium.shape) - 1)


@dataclass(frozen=True)
class Peer:
    """The exported model, as the tools that will load it see it."""

    image: Callable[[Tensor], Tensor]  # pixels [n, C, H, W] -> features [n, D]
    text: Callable[[list[str]], Tensor]  # strings -> features [n, D]
    ids: Callable[[list[str]], list[list[int]]]  # strings -> ids, without padding
    pixels: Mapping[str, Callable[[list[Any]], Tensor]]  # by name: `examples` -> pixels; "pixels" must be equal
    clean: Callable[[str], str] = str  # what its tokenizer does to a string first
    captions: Callable[[Tensor], list[list[int]]] | None = None  # pixels -> ids of the captions that it writes
    pool: image_pool.Pool | None = None  # how it pools several images, where that is learnt


@torch.no_grad()
def compare(source: Source, peer: Peer) -> dict[str, float]:
    """Return the largest differences between a model and its exported form."""
    model, tokenizer = source.model, source.tokenizer
    image = model.config.image
    images = examples(image)
    own_pixels = prepare(images, image)
    apart = largest if image.array is None else arrays.differing
    unit_of = torch.tensor(image.std).view(-1, 1, 1) if image.deep else 1  # deep pixels are compared in [0, 1]
    ids, lengths = tokenizer([peer.clean(text) for text in HARD_STRINGS])
    everything = strings()
    cleaned = [peer.clean(text) for text in everything]
    theirs = peer.ids(everything)
    told = {}
    if peer.clean is not str:
        changed = sum(a != b for a, b in zip(tokenizer.encode(everything), theirs, strict=True))
        told["share_of_strings_cleaned_first"] = changed / len(everything)
    seen, found = model.encode_image(own_pixels), unit(peer.image(own_pixels))
    return {
        "image_features": largest(seen, found),
        "text_features": largest(model.encode_text(ids, lengths), unit(peer.text(HARD_STRINGS))),
        "token_ids_that_differ": sum(a != b for a, b in zip(tokenizer.encode(cleaned), theirs, strict=True)),
        **image_pool.differing(source, peer.pool, seen, found),
        **captioner.differing(source, peer.captions, own_pixels),
        **told,
        **{name: apart(own_pixels * unit_of, make(images) * unit_of) for name, make in peer.pixels.items()},
        **({} if source.dtype == "float32" else {"rounding": _rounding(source, own_pixels)}),
    }


def _rounding(source: Source, pixels: Tensor) -> float:
    """Return what the narrower type changes in the features."""
    exact = open_model(source.folder, head=source.head).plain()
    ids, lengths = source.tokenizer(HARD_STRINGS)
    image = largest(exact.encode_image(pixels), source.model.encode_image(pixels))
    return max(image, largest(exact.encode_text(ids, lengths), source.model.encode_text(ids, lengths)))


def insist(source: Source, differences: Mapping[str, float], folder: Path, tolerance: float = Format.tolerance) -> None:
    """Refuse a folder whose differences are too large; write them and what it holds into it."""
    bound(differences, folder, tolerance)
    about = {"tolerance": tolerance, "dtype": source.dtype, "head": source.head}
    report = {**differences, **about, "files": hashes(folder)}
    (folder / REPORT).write_text(json.dumps(report, indent=2))


def bound(differences: Mapping[str, float], folder: Path, tolerance: float = Format.tolerance) -> None:
    """Raise where a difference is too large, or not a number."""
    held = {name: value for name, value in differences.items() if not any(word in name for word in TOLD)}
    wrong = [f"{name} {value:.3g}" for name, value in held.items() if not value <= tolerance]
    if wrong:
        raise UserError(f"{folder}: the export does not agree with the checkpoint ({', '.join(wrong)}); do not use it")


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what computes in a folder: every file but the card, the report and hidden ones."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return {str(name): sha256(folder / name) for name in shown if name.name not in ("README.md", REPORT)}


def unit(features: Tensor) -> Tensor:
    """Return features at length 1, in float32."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


def largest(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference."""
    return float((a - b).abs().max())
