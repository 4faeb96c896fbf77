"""Model folders in transformers' form: CLIP's config and SigLIP's (how pixels are described: `models.pixels`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmclr.config import check, to_tree
from mmclr.errors import UserError
from mmclr.models.config import ImageConfig, ModelConfig, TextConfig
from mmclr.models.foreign.libraries.transformers import describe_config
from mmclr.models.formats.pixels import preprocessor, read_pixels
from mmclr.models.presets import PRESETS
from mmclr.storage.json_file import read_json

__all__ = ["from_transformers", "preprocessor", "read_pixels", "read_text", "read_vision", "to_transformers"]

Tree = dict[str, Any]
# transformers' name for each field of ours, and its own defaults where a key is left out
_VISION = {"size": "image_size", "patch": "patch_size", "channels": "num_channels", "width": "hidden_size",
           "layers": "num_hidden_layers", "heads": "num_attention_heads", "mlp": "intermediate_size",
           "activation": "hidden_act", "eps": "layer_norm_eps"}  # fmt: skip
_OF_IMAGES = {"size", "patch", "channels"}
_TEXT = {"context": "max_position_embeddings", "vocab": "vocab_size", "bos": "bos_token_id", "eos": "eos_token_id",
         "pad": "pad_token_id", **{k: v for k, v in _VISION.items() if k not in _OF_IMAGES}}  # fmt: skip
_DEFAULTS = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_VISION_DEFAULTS = {"image_size": 224, "patch_size": 32, "num_channels": 3, "hidden_size": 768,
                    "num_attention_heads": 12, "intermediate_size": 3072, **_DEFAULTS}  # fmt: skip
_TEXT_DEFAULTS = {"max_position_embeddings": 77, "vocab_size": 49408, "hidden_size": 512, "num_attention_heads": 8,
                  "intermediate_size": 2048, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1,
                  **_DEFAULTS}  # fmt: skip
OURS = ("preset", "scale", "bias", "max_scale")


def to_transformers(config: ModelConfig) -> Tree:
    """Return the model as transformers' CLIPConfig tree; what it has no word for lies under "mmclr".

    A model with foreign towers, of arrays or with a scattering transform is no CLIPModel: its tree is our own, of
    model_type "mmclr".
    """
    if not config.image.clip or config.text.foreign:
        return {"model_type": "mmclr", "mmclr": to_tree(config)}
    projection = {"projection_dim": config.embed}
    ours = {name: getattr(config, name) for name in OURS}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **projection,
        "logit_scale_init_value": math.log(config.scale),
        "vision_config": {"model_type": "clip_vision_model", **projection, **_rename(config.image, _VISION)},
        "text_config": {"model_type": "clip_text_model", **projection, **_rename(config.text, _TEXT)},
        "mmclr": ours,
    }


def from_transformers(folder: Path) -> ModelConfig:
    """Return the model that a folder with config.json describes."""
    tree = read_json(folder / "config.json")
    kinds = {"clip": _clip, "siglip": _siglip, "mmclr": _own, "mmclr_arrays": _own}
    kind = tree.get("model_type")
    if kind not in kinds:
        raise UserError(
            f"{folder}: a {kind!r} model; only {', '.join(kinds)} are read as a whole; as one tower, name it in "
            f"model.image.foreign or model.text.foreign"
        )
    found = kinds[kind](tree, read_pixels(folder))
    _refuse_elsewhere(found, folder)
    return check(ModelConfig, found, str(folder))


def _refuse_elsewhere(tree: Tree, folder: Path) -> None:
    """Raise where a folder's config would have other folders, or itself, say what it is."""
    if tree.get("preset") not in (None, *PRESETS):
        raise UserError(f"{folder}: its preset is {str(tree['preset'])[:100]!r}, and no name of ours; copy it again")
    for part in ("image", "text"):
        foreign = tree[part].get("foreign")
        if foreign is not None and not foreign.get("architecture"):
            raise UserError(f"{folder}: its {part} tower has no architecture; copy it again")


def _own(tree: Tree, pixels: Tree) -> Tree:
    found: Tree = tree["mmclr"]
    return found


def _clip(tree: Tree, pixels: Tree) -> Tree:
    vision, text = (
        {**tree.get(f"{part}_config", {}), **(tree.get(f"{part}_config_dict") or {})} for part in ("vision", "text")
    )
    ours = {key: value for key, value in tree.get("mmclr", {}).items() if key in OURS}
    return {
        "embed": tree.get("projection_dim", 512),
        "image": {**read_vision(vision), **pixels},
        "text": read_text(text),
        "scale": math.exp(tree.get("logit_scale_init_value", math.log(1 / 0.07))),
        **ours,
    }


def read_vision(tree: Tree) -> Tree:
    """Return a CLIPVisionConfig tree as one of ImageConfig."""
    return {ours: tree.get(theirs, _VISION_DEFAULTS[theirs]) for ours, theirs in _VISION.items()}


def read_text(tree: Tree) -> Tree:
    """Return a CLIPTextConfig tree as one of TextConfig."""
    found = {ours: tree.get(theirs, _TEXT_DEFAULTS[theirs]) for ours, theirs in _TEXT.items()}
    if found["eos"] == 2:  # in CLIP's first configs this stands for the highest id there is
        found["eos"] = found["vocab"] - 1
    return {**found, "pad": found["eos"] if found["pad"] is None else found["pad"]}


def _siglip(tree: Tree, pixels: Tree) -> Tree:
    image = describe_config("image", {**tree["vision_config"], "model_type": "siglip_vision_model"})
    text = describe_config("text", {**tree["text_config"], "model_type": "siglip_text_model"})
    for part in (image, text):
        part["foreign"].update(pool="pooler", projection=False)
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize": "squash"}
    return {"embed": image["width"], "image": {**image, **half, **pixels}, "text": text}


def _rename(config: ImageConfig | TextConfig, names: dict[str, str]) -> Tree:
    tree = to_tree(config)
    return {theirs: tree[ours] for ours, theirs in names.items()}
