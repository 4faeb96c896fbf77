"""The model card of an export: what it is, how it was trained, how to use it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from mmclr import __version__
from mmclr.models.two_tower import TwoTower

USE = """\
```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
inputs = processor(text={captions}, images=Image.open("picture.png").convert("RGB"), return_tensors="pt", padding=True)
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(-1))
```"""


def write(folder: Path, weights: Path, model: TwoTower, differences: dict[str, float], name: str) -> None:
    """Write README.md into `folder` from the checkpoint that `weights` lies in."""
    config, position = _read(weights.parent / "config.yaml"), _read(weights.parent / "position.json")
    head = {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "image-text", "mmclr"],
    }
    image, text = model.config.image, model.config.text
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}",
        f"An image-text model with two encoders into one space of {model.config.embed} dimensions "
        f"({parameters:.1f} million parameters), trained with [mmclr](https://pypi.org/project/mmclr) {__version__}.",
        "## Use",
        USE.format(name=name, captions='["a cat", "a dog"]'),
        "## Encoders",
        f"- image: ViT, {image.size} px in patches of {image.patch}, width {image.width}, {image.layers} layers; "
        f"pixels minus {_short(image.mean)} over {_short(image.std)}",
        f"- text: causal transformer, {text.context} tokens of {text.vocab}, width {text.width}, {text.layers} layers",
        f"- scale of the logits: {model.scale.item():.4g}",
    ]
    if config:
        lines += ["## Training", *_training(config, position, weights.name)]
    agreement = ", ".join(f"{key.replace('_', ' ')} {value:.2g}" for key, value in differences.items())
    lines += ["## Agreement with the checkpoint", f"Largest differences, float32: {agreement}."]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _training(config: dict, position: dict, weights: str) -> list[str]:
    step, batch = position.get("step", 0), config["data"]["batch"]
    skipped = position.get("loader", {}).get("faults", {})
    return [
        f"- {step} steps of {batch} pairs ({step * batch} seen)"
        + (f"; averaged weights, decay {config['average']['decay']}" if weights == "average" else ""),
        f"- objectives: `{json.dumps(config['objectives'])}`",
        f"- AdamW: `{json.dumps(config['optim'])}`",
        f"- samples that could not be used: {json.dumps(skipped) if skipped else 'none'}",
    ]


def _read(path: Path) -> dict:
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
