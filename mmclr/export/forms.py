"""The class of transformers that can hold a model, and the model's layout there: config and tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr.errors import UserError
from mmclr.export import arrays
from mmclr.models.config import Foreign, ImageConfig, ModelConfig, TextConfig
from mmclr.models.foreign.libraries.transformers import with_channels
from mmclr.models.formats.transformers import to_transformers
from mmclr.models.formats.weights import write_weights
from mmclr.models.pooling import pool
from mmclr.models.two_tower import TwoTower

Tree = dict[str, Any]
Form = tuple[Tree, dict[str, Tensor]]  # config.json, model.safetensors


def form(model: TwoTower) -> Form:
    """Return the config and tensors of the class that can hold `model`, or say why none can."""
    c = model.config
    if c.image.array is not None:
        return arrays.form(model)
    if c.image.scatter is not None:
        raise UserError(
            "no class of transformers can hold this model: none has a scattering transform (model.image.scatter); "
            "`mmclr export onnx` can"
        )
    if c.image.foreign is None and c.text.foreign is None:
        return _clip(model)
    if _is_siglip(c.image.foreign, "siglip_vision_model") and _is_siglip(c.text.foreign, "siglip_text_model"):
        return _siglip(model)
    return _dual(model)


def _clip(model: TwoTower) -> Form:
    """CLIPModel. What it has no place for goes into the config."""
    tree, state = to_transformers(model.config), _state(model)
    if (bias := state.pop("logit_bias", None)) is not None:
        tree["mmclr"]["logit_bias"] = bias.item()
    return tree, state


def _siglip(model: TwoTower) -> Form:
    """SiglipModel, which has no projections and keeps both scalars as vectors of one."""
    image, text = model.config.image, model.config.text
    assert image.foreign is not None
    assert text.foreign is not None
    tree = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {**with_channels(image), "model_type": "siglip_vision_model"},
        "text_config": {**text.foreign.architecture, **_ids(text), "model_type": "siglip_text_model"},
    }
    state = {_flat(name): value for name, value in _state(model).items()}
    if "logit_bias" not in state:
        raise UserError("SiglipModel has a logit bias and this model has none; train it with a sigmoid objective")
    return tree, {name: value.reshape(1) if name.startswith("logit_") else value for name, value in state.items()}


def _dual(model: TwoTower) -> Form:
    """VisionTextDualEncoderModel: any two towers with poolers of their own, and projections."""
    c = model.config
    for part, tower in (("image", c.image), ("text", c.text)):
        if (why := _not_dual(tower.foreign, part)) is not None:
            raise UserError(
                f"no class of transformers can hold this model: its {part} tower {why}; `mmclr export onnx` can"
            )
    clip = to_transformers(_plain(c))
    tree: Tree = {
        "architectures": ["VisionTextDualEncoderModel"],
        "model_type": "vision-text-dual-encoder",
        "projection_dim": c.embed,
        "logit_scale_init_value": clip["logit_scale_init_value"],
        "vision_config": with_channels(c.image) if c.image.foreign else clip["vision_config"],
        "text_config": {**c.text.foreign.architecture, **_ids(c.text)} if c.text.foreign else clip["text_config"],
        "mmclr": clip["mmclr"],
    }
    state = {_flat(name): value for name, value in _state(model).items()}
    if (bias := state.pop("logit_bias", None)) is not None:
        tree["mmclr"]["logit_bias"] = bias.item()
    return tree, state


def _not_dual(foreign: Foreign | None, part: str) -> str | None:
    """Return why VisionTextDualEncoderModel would compute another feature than this tower gives, or None."""
    if foreign is None:
        return None
    if foreign.library != "transformers":
        return f"is {foreign.library}'s (`mmclr export open_clip` holds it)"
    if not foreign.projection:
        return "has no projection"
    if foreign.padding == "context":
        return "wants padding up to its context"
    kind = foreign.architecture["model_type"]
    if foreign.pool == "pooler" or (kind.startswith("dinov2") and foreign.pool == "cls"):
        return None
    return f"({kind}) is pooled by {foreign.pool!r} and not by its own pooler"


def halves(model: TwoTower) -> Mapping[str, Callable[[], Any]]:
    """Return {folder: a maker of the model with that tower and its projection alone} for a CLIPModel."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    if not model.config.image.clip or model.config.text.foreign:
        raise UserError("--halves writes the two towers of a CLIPModel, and this model has others")
    tree, state = _clip(model)

    def make(cls: Any, config: Any, prefixes: tuple[str, ...]) -> Any:
        peer = cls(config)
        peer.load_state_dict({name: value for name, value in state.items() if name.startswith(prefixes)})
        return peer

    image, text = CLIPVisionConfig(**tree["vision_config"]), CLIPTextConfig(**tree["text_config"])
    return {
        "image": lambda: make(CLIPVisionModelWithProjection, image, ("vision_model.", "visual_projection.")),
        "text": lambda: make(CLIPTextModelWithProjection, text, ("text_model.", "text_projection.")),
    }


def save(peer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a model of transformers. Its own save_pretrained shows bars, and loads DeepSpeed where it is installed."""
    folder.mkdir(exist_ok=True)
    peer.config.architectures, peer.config.dtype = [type(peer).__name__], dtype
    peer.config.save_pretrained(folder)
    if peer.can_generate():
        peer.generation_config.save_pretrained(folder)
    write_weights({name: value.to(dtype) for name, value in peer.state_dict().items()}, folder / "model.safetensors")


def _state(model: TwoTower) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value.detach() for name, value in state.items() if name not in pool.only(state)}


def _plain(c: ModelConfig) -> ModelConfig:
    """Return the config with towers of ours in place of foreign ones, for the tree of the others."""
    image = ImageConfig() if c.image.foreign else c.image
    return dataclasses.replace(c, image=image, text=TextConfig() if c.text.foreign else c.text)


def _ids(c: TextConfig) -> Tree:
    return {"bos_token_id": c.bos if c.bos >= 0 else None, "eos_token_id": c.eos, "pad_token_id": c.pad}


def _is_siglip(foreign: Foreign | None, kind: str) -> bool:
    return (
        foreign is not None
        and foreign.architecture.get("model_type") == kind
        and foreign.pool == "pooler"
        and not foreign.projection
    )


def _flat(name: str) -> str:
    """Return the name of a foreign tower's tensor without the level that we put around it."""
    return name.replace("vision_model.model.", "vision_model.").replace("text_model.model.", "text_model.")
