"""Model configs by name, and those of model folders."""

from __future__ import annotations

from typing import Any

from mmclr.config import merge, nearest, to_tree


def _vit(width: int, layers: int, patch: int, text: int, embed: int) -> dict[str, Any]:
    image = {"patch": patch, "width": width, "layers": layers, "heads": width // 64, "mlp": 4 * width}
    return {"embed": embed, "image": image, "text": {"width": text, "heads": text // 64, "mlp": 4 * text}}


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-Ti/16": _vit(192, 12, 16, text=256, embed=256),
    "ViT-S/16": _vit(384, 12, 16, text=384, embed=384),
    "ViT-B/32": _vit(768, 12, 32, text=512, embed=512),
    "ViT-B/16": _vit(768, 12, 16, text=512, embed=512),
    "ViT-L/14": _vit(1024, 24, 14, text=768, embed=768),
    "icons": {  # the demo's: pictures of 32 pixels, names of a few words
        "embed": 128,
        "image": {"size": 32, "patch": 8, "width": 128, "layers": 4, "heads": 4, "mlp": 512},
        "text": {"context": 16, "width": 128, "layers": 2, "heads": 4, "mlp": 512},
    },
}


def fill_in(tree: Any) -> Any:
    """Return the tree of a ModelConfig with its preset beneath it, and what its foreign towers say of themselves."""
    if not isinstance(tree, dict):
        return tree
    name = tree.get("preset")
    filled = merge(merge({"image": {}, "text": {}}, _find(name) if name else {}), {**tree, "preset": None})
    for part in ("image", "text"):
        foreign = filled[part].get("foreign") if isinstance(filled[part], dict) else None
        if isinstance(foreign, dict) and foreign.get("source") and not foreign.get("architecture"):
            from mmclr.models.foreign.build import describe

            filled[part] = describe(part, filled[part])
    return {**filled, "preset": name if name in PRESETS else None}


def _find(name: str) -> dict[str, Any]:
    """Return what a preset says: a name in PRESETS, or the architecture of a model folder."""
    from mmclr.models.formats import find

    if name in PRESETS:
        return PRESETS[name]
    if not find.is_source(name):
        raise ValueError(f"there is no preset {name!r}{nearest(str(name), PRESETS)}")
    return to_tree(find.read_config(find.find(name)))
