"""The names of open_clip's tensors and of ours, both ways, to the bit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from mmclr.models.config import ModelConfig

_NAMES = [
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("ln_final.", "text_model.final_layer_norm."),
    ("text_projection", "text_projection.weight"),
]
_IN_BLOCKS = [
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
]
_TRANSPOSED = ("visual.proj", "text_projection")


def from_open_clip(state: Mapping[str, Tensor], config: ModelConfig, where: str) -> dict[str, Tensor]:
    """Return open_clip's tensors under our names."""
    decoder = [name for name in state if name.startswith("text_decoder.")]
    if decoder:
        warnings.warn(f"{where}: its captioning decoder ({len(decoder)} tensors) is left out", stacklevel=2)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        plain = name.removeprefix("text.")
        if name in decoder or name.endswith("attn_mask"):
            continue
        if plain.startswith("logit_"):
            out[plain] = value.reshape(())
        elif plain.startswith("visual."):
            out.update(
                _foreign_name("vision_model", plain, "visual.", value)
                if config.image.foreign
                else _rename(plain, value)
            )
        else:
            out.update(_foreign_name("text_model", plain, "", value) if config.text.foreign else _rename(plain, value))
    return out


def _foreign_name(tower: str, name: str, prefix: str, value: Tensor) -> dict[str, Tensor]:
    return {f"{tower}.model.{name.removeprefix(prefix)}": value}


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    new = next((ours + name[len(theirs) :] for theirs, ours in _NAMES if name.startswith(theirs)), name)
    if ".attn.in_proj_" in new:
        block, kind = new.split(".attn.in_proj_")
        return {f"{block}.self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", value.chunk(3))}
    for theirs, ours in _IN_BLOCKS:
        new = new.replace(theirs, ours)
    return {new: value.T if name in _TRANSPOSED else value}


def to_open_clip(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return our tensors under open_clip's names; the inverse of `from_open_clip`."""
    custom = "text." if config.image.foreign or config.text.foreign else ""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(("vision_model.model.", "text_model.model.")):
            new = name.replace("vision_model.model.", "visual.").replace("text_model.model.", "text.")
        elif ".self_attn.q_proj." in name:
            value = torch.cat([state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"])
            new = _their_name(name.replace(".self_attn.q_proj.", ".attn.in_proj_"))
        elif ".self_attn.out_proj." not in name and ".self_attn." in name:
            continue
        else:
            new = _their_name(name)
            value = value.T if new in _TRANSPOSED else value
        own = new.startswith(("visual.", "text.", "logit_"))
        out[new if own else custom + new] = value.contiguous()
    return out


def _their_name(name: str) -> str:
    new = next((theirs + name[len(ours) :] for theirs, ours in _NAMES if name.startswith(ours)), name)
    for theirs, ours in _IN_BLOCKS:
        new = new.replace(ours, theirs)
    return new
