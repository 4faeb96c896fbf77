"""Does an exported folder do what the checkpoint does? Features, token ids and pixels, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower

TOLERANCE = 1e-5  # largest difference of unit-norm features in float32
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


def pictures(size: int) -> list[Image.Image]:
    """Return pictures of several shapes and modes, the same every time."""
    draw = np.random.default_rng(0)
    shapes = [(size, size), (size * 2, size), (size, size * 3 // 2), (size // 2 + 1, size // 2 + 1)]
    rgb = [Image.fromarray(draw.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
    return [*rgb, rgb[0].convert("L").convert("RGB")]


def compare(model: TwoTower, tokenizer: Tokenizer, peer: Any, processor: Any) -> dict[str, float]:
    """Return the largest differences between a model here and its exported form in transformers."""
    images = pictures(model.config.image.size)
    own_ids, lengths = tokenizer(HARD_STRINGS)
    theirs = processor.tokenizer(HARD_STRINGS, padding=True, truncation=True, return_tensors="pt")
    same = own_ids.shape == theirs["input_ids"].shape and bool((own_ids == theirs["input_ids"]).all())
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        image = _unit(peer.get_image_features(pixel_values=pixels))
        text = _unit(peer.get_text_features(**theirs))
        return {
            "token_ids_that_differ": 0 if same else 1,
            "image_features": _largest(model.encode_image(pixels), image),
            "text_features": _largest(model.encode_text(own_ids, lengths), text) if same else float("inf"),
        }


def insist(differences: dict[str, float], folder: Path) -> None:
    """Write the differences into the folder, and refuse it if they are too large."""
    (folder / "parity.json").write_text(json.dumps({**differences, "tolerance": TOLERANCE}, indent=2))
    wrong = [f"{name} {value:.3g}" for name, value in differences.items() if value > TOLERANCE]
    if wrong:
        raise UserError(f"{folder}: the export does not agree with the checkpoint ({', '.join(wrong)}); do not use it")


def _unit(output: Any) -> Tensor:
    """Return unit-norm features; transformers 5 wraps them in an output object."""
    features: Tensor = getattr(output, "pooler_output", output)
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
