"""Model configs by name. Nothing is opened or fetched here: what names a folder is read by `models.resolve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmclr.config import merge, nearest


def _vit(width: int, layers: int, patch: int, text: int, embed: int) -> dict[str, Any]:
    image = {"patch": patch, "width": width, "layers": layers, "heads": width // 64, "mlp": 4 * width}
    return {"embed": embed, "image": image, "text": {"width": text, "heads": text // 64, "mlp": 4 * text}}


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-Ti/16": _vit(192, 12, 16, text=256, embed=256),
    "ViT-S/16": _vit(384, 12, 16, text=384, embed=384),
    "ViT-B/32": _vit(768, 12, 32, text=512, embed=512),
    "ViT-B/16": _vit(768, 12, 16, text=512, embed=512),
    "ViT-L/14": _vit(1024, 24, 14, text=768, embed=768),
    "icons": {  # the demo's: images of 32 pixels, names of a few words
        "embed": 128,
        "image": {"size": 32, "patch": 8, "width": 128, "layers": 4, "heads": 4, "mlp": 512},
        "text": {"context": 16, "width": 128, "layers": 2, "heads": 4, "mlp": 512},
    },
}


PREFIXES = ("open_clip:", "transformers:", "hf-hub:")  # of names that say where a model comes from


def is_source(text: str) -> bool:
    """Whether `text` names a folder that is there, or says with a prefix where a model comes from."""
    return Path(text).is_dir() or is_prefixed(text)


def is_prefixed(text: str) -> bool:
    """Whether `text` says with a prefix where a model comes from."""
    return text.startswith(PREFIXES)


def fill_in(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of a ModelConfig with its preset beneath it; one that names a folder stays to be read."""
    name = tree.get("preset")
    if not isinstance(name, str):  # none, or what the check will refuse
        return merge({"image": {}, "text": {}}, tree)
    if name and name not in PRESETS and not is_source(name):
        raise ValueError(f"there is no preset {name!r}{nearest(name, PRESETS)}")
    return merge(merge({"image": {}, "text": {}}, PRESETS.get(name, {})), {**tree, "preset": name or None})
