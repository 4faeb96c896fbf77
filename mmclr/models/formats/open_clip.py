"""Model folders in open_clip's form: its config, read and written (its tensors: `models.open_clip_weights`).

A tower of open_clip's that ours cannot be (timm, ResNet, attention pooling, SigLIP, CoCa) stays open_clip's own: see
`models.open_clip_towers`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmclr.config import check
from mmclr.errors import UserError
from mmclr.models.config import MEAN, STD, ImageConfig, ModelConfig, TextConfig
from mmclr.storage.json_file import read_json

Tree = dict[str, Any]
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")  # the first that open_clip looks for
# What may be set without changing what the towers compute; everything else that is set makes a tower foreign.
_PLAIN_VISION = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "norm_kwargs",
                 "patch_dropout", "output_tokens", "final_ln_after_pool", "attn_pooler_queries", "attn_pooler_heads",
                 "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
                 "timm_drop_path"}  # fmt: skip
_PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs", "pad_id",
               "eos_id", "output_tokens", "final_ln_after_pool", "hf_tokenizer_name", "tokenizer_mode",
               "tokenizer_kwargs", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}  # fmt: skip
VISION: Tree = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
TEXT: Tree = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_USUAL = {"pos_embed_type": ("learnable",), "pool_type": ("tok", "argmax", "eos"), "proj_type": ("linear",)}


def read_config(folder: Path) -> ModelConfig:
    """Return the model that open_clip_config.json describes."""
    tree = read_json(folder / CONFIG)
    if not isinstance(tree.get("model_cfg"), dict):
        raise UserError(f"{folder / CONFIG}: it has no model_cfg; copy the file again")
    model, pixels = tree["model_cfg"], tree.get("preprocess_cfg", {})
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    embed = {"embed": model["embed_dim"]}
    image = {**_image(model, activation), **_pixels(pixels, str(folder))}
    bias = {} if model.get("init_logit_bias") is None else {"bias": model["init_logit_bias"]}
    scale = {"scale": math.exp(model["init_logit_scale"])} if "init_logit_scale" in model else {}
    return check(ModelConfig, {**embed, "image": image, "text": _text(model, activation), **bias, **scale}, str(folder))


def foreign_tree(part: str, tree: Tree, where: str) -> Tree:
    """Return the tree of an ImageConfig or TextConfig in which a tower stays open_clip's own."""
    model = tree["model_cfg"]
    if part == "image":
        return {**_foreign_image(model), **_pixels(tree.get("preprocess_cfg", {}), where)}
    return _foreign_text(model)


def _image(model: Tree, activation: str) -> Tree:
    c = {**VISION, **model["vision_cfg"]}
    if not _plain(c, _PLAIN_VISION) or not isinstance(c["layers"], int):
        return _foreign_image(model)
    return {"size": _size(c), "patch": c["patch_size"], **_tower(c, activation, c["width"] // c["head_width"])}


def _text(model: Tree, activation: str) -> Tree:
    c = {**TEXT, **model["text_cfg"]}
    return {**_ids(c), **_tower(c, activation, c["heads"])} if _plain(c, _PLAIN_TEXT) else _foreign_text(model)


def _foreign_image(model: Tree) -> Tree:
    c = {**VISION, **model["vision_cfg"]}
    patch = c["patch_size"] if isinstance(c["layers"], int) else 32  # what a ResNet divides its images by
    return {"size": _size(c), "patch": patch, "width": model["embed_dim"], "foreign": _foreign(model, "vision_cfg")}


def _foreign_text(model: Tree) -> Tree:
    c = {**TEXT, **model["text_cfg"]}
    if c.get("hf_model_name"):
        raise UserError(
            f"{CONFIG}: its text tower is {c['hf_model_name']} of transformers, which open_clip fetches by name; "
            "take the image tower from here and that text tower through model.text.foreign"
        )
    return {**_ids(c), "width": model["embed_dim"], "foreign": {**_foreign(model, "text_cfg"), "padding": "context"}}


def _size(c: Tree) -> int:
    sides = {c["image_size"]} if isinstance(c["image_size"], int) else set(c["image_size"])
    if len(sides) > 1:
        raise UserError(f"{CONFIG}: images of {c['image_size']} pixels; only square ones are read here")
    return int(sides.pop())


def _ids(c: Tree) -> Tree:
    last = c["vocab_size"] - 1
    eos = c.get("eos_id", 2) if c.get("pool_type") == "eos" else last  # argmax pools at the highest id
    return {"context": c["context_length"], "vocab": c["vocab_size"], "bos": last - 1, "eos": eos, "pad": eos}


def _tower(c: Tree, activation: str, heads: int) -> Tree:
    eps = (c.get("norm_kwargs") or {}).get("eps", 1e-5)
    return {
        "width": c["width"],
        "layers": c["layers"],
        "heads": heads,
        "mlp": int(c["width"] * c["mlp_ratio"]),
        "activation": activation,
        "eps": eps,
    }


def _foreign(model: Tree, part: str) -> Tree:
    tower = {"embed_dim": model["embed_dim"], "quick_gelu": bool(model.get("quick_gelu")), part: model[part]}
    return {"library": "open_clip", "projection": False, "architecture": tower}


def _plain(c: Tree, plain: set[str]) -> bool:
    """Whether nothing is set that our towers have not."""
    odd = {key: value for key, value in c.items() if key not in plain and value not in _USUAL.get(key, ())}
    eps_alone = set(c.get("norm_kwargs") or {}) <= {"eps"}
    return eps_alone and not any(odd.values())


def _pixels(tree: Tree, where: str) -> Tree:
    modes = {"shortest": "crop", "squash": "squash"}
    mode = tree.get("resize_mode", "shortest")
    if mode not in modes:
        raise UserError(f"{where}: images are resized by their {mode} side; only {', '.join(modes)} are read here")
    return {
        "mean": tree.get("mean", MEAN),
        "std": tree.get("std", STD),
        "resize": modes[mode],
        "resample": tree.get("interpolation", "bicubic"),
    }


def write_config(config: ModelConfig, bias: bool) -> Tree:
    """Return the content of open_clip_config.json."""
    image, text = config.image, config.text
    if image.array is not None:
        raise UserError(
            "open_clip has no tower for arrays, and this model takes no images; use `mmclr export transformers` or onnx"
        )
    if image.scatter is not None:
        raise UserError(
            "open_clip has no scattering transform (model.image.scatter), so no tower of its holds this model; use "
            "`mmclr export onnx`"
        )
    if image.deep:
        asks = f"{image.channels} channels" if image.channels != 3 else "deep pixels (model.image.intensity)"
        raise UserError(
            f"open_clip's towers and transforms are made for RGB images of 8 bits, and its config has no key for "
            f"{asks}; use `mmclr export transformers` or `mmclr export onnx`"
        )
    quick = {_activation(image), _activation(text)}
    if len(quick) > 1:
        raise UserError("open_clip has one activation for both towers; this model has gelu in one, quick_gelu in one")
    model = {
        "embed_dim": config.embed,
        "vision_cfg": _write_image(image),
        "text_cfg": _write_text(text),
        **({"quick_gelu": True} if quick == {"quick_gelu"} else {}),
        **({"init_logit_bias": config.bias} if bias else {}),
        **({"custom_text": True} if image.foreign or text.foreign else {}),
    }
    mode = {"crop": "shortest", "squash": "squash"}[image.resize]
    pixels = {"mean": image.mean, "std": image.std, "interpolation": image.resample, "resize_mode": mode}
    return {"model_cfg": model, "preprocess_cfg": pixels}


def _activation(c: ImageConfig | TextConfig) -> str:
    if c.foreign is None:
        return c.activation
    return "quick_gelu" if c.foreign.architecture.get("quick_gelu") else "gelu"


def _write_image(c: ImageConfig) -> Tree:
    if c.foreign is not None:
        return _write_foreign(c.foreign.library, c.foreign.architecture, "vision_cfg")
    return {"image_size": c.size, "patch_size": c.patch, "head_width": c.width // c.heads, **_write_tower(c)}


def _write_text(c: TextConfig) -> Tree:
    if c.foreign is not None:
        return _write_foreign(c.foreign.library, c.foreign.architecture, "text_cfg")
    pool = {} if c.eos == c.vocab - 1 else {"pool_type": "eos", "eos_id": c.eos}
    return {"context_length": c.context, "vocab_size": c.vocab, "heads": c.heads, **_write_tower(c), **pool}


def _write_tower(c: ImageConfig | TextConfig) -> Tree:
    ratio = c.mlp / c.width
    ratio = ratio if int(c.width * ratio) == c.mlp else (c.mlp + 0.5) / c.width
    eps = {} if c.eps == 1e-5 else {"norm_kwargs": {"eps": c.eps}}
    return {"width": c.width, "layers": c.layers, "mlp_ratio": ratio, **eps}


def _write_foreign(library: str, architecture: Tree, part: str) -> Tree:
    if library != "open_clip":
        raise UserError(f"open_clip cannot hold a tower of {library}; use `mmclr export transformers`")
    return dict(architecture[part])
