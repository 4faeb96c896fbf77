"""Towers of transformers: how they are described, built, filled, and pooled to one feature."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmclr.errors import UserError
from mmclr.models.config import Foreign, ImageConfig, TextConfig
from mmclr.models.foreign.inputs import fill, refuse_dropped_patches, valid
from mmclr.models.formats.pixels import read_pixels
from mmclr.models.formats.weights import find_weights
from mmclr.models.tower import LibraryTower
from mmclr.storage.json_file import read_json

Tree = dict[str, Any]
IN_TWO = {"clip": "clip", "siglip": "siglip"}  # models of two towers, and the first word of their towers' types
NOT_ARCHITECTURE = {"id2label", "label2id", "auto_map", "architectures", "dtype", "torch_dtype", "_name_or_path",
                    "transformers_version", "problem_type", "num_labels", "finetuning_task"}  # fmt: skip


def describe(part: str, folder: Path) -> Tree:
    """Return the tree of an ImageConfig or TextConfig for the tower in a transformers folder."""
    found = describe_config(part, _own_config(part, folder))
    return {**found, **read_pixels(folder)} if part == "image" else found


def describe_config(part: str, config: Tree) -> Tree:
    """Return the tree of an ImageConfig or TextConfig for a tower with transformers' config."""
    c = _config(config)
    padded = c.model_type == "siglip_text_model"  # trained on rows of full length, without a mask
    architecture = {k: v for k, v in json.loads(c.to_json_string(use_diff=False)).items() if k not in NOT_ARCHITECTURE}
    foreign = {"library": "transformers", "architecture": architecture, "padding": "context" if padded else "mask"}
    width = getattr(c, "projection_size", None) or getattr(c, "hidden_size", None) or c.hidden_sizes[-1]
    layers = getattr(c, "num_hidden_layers", None) or len(c.depths)
    sizes = {"width": width, "layers": layers, "heads": 1, "mlp": getattr(c, "intermediate_size", None) or 4 * width}
    if part == "image":
        size, patch = getattr(c, "image_size", 224), getattr(c, "patch_size", 32)
        return {
            "size": size,
            "patch": patch if isinstance(patch, int) else 32,
            "channels": getattr(c, "num_channels", 3),
            **sizes,
            "foreign": foreign,
        }
    positions = getattr(c, "max_position_embeddings", 77)
    ids = {kind: v if isinstance(v := getattr(c, f"{kind}_token_id", 0), int) else 0 for kind in ("bos", "eos", "pad")}
    return {
        "context": positions if padded else min(positions, 77),
        "vocab": c.vocab_size,
        **ids,
        **sizes,
        "foreign": foreign,
    }


class Image(LibraryTower):
    """A vision model of transformers, pooled to its first token, the mean of its patches, or by its own pooler."""

    part = "image"

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        assert c.foreign is not None
        self.foreign = dataclasses.replace(c.foreign, architecture=with_channels(c))
        self.pool, self.patch = _pool(c.foreign, ("cls", "mean", "pooler"), "model.image"), c.patch
        self.model = _build(self.foreign, "image")
        asks = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        other = c.size != c.foreign.architecture.get("image_size", c.size)
        self.extra = {"interpolate_pos_encoding": True} if asks and other else {}

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, C, H, W] -> features [b, width]."""
        refuse_dropped_patches(keep)
        out = self.model(pixel_values=pixels, **self.extra)
        if self.pool == "pooler":
            return out.pooler_output.flatten(1)
        x = out.last_hidden_state
        if x.ndim == 4:  # the map [b, width, h, w] of a convolutional network
            return x.mean((2, 3))
        patches = (pixels.shape[2] // self.patch) * (pixels.shape[3] // self.patch)  # class and registers come first
        return x[:, 0] if self.pool == "cls" else x[:, -patches:].mean(1)


def with_channels(c: ImageConfig) -> Tree:
    """Return transformers' config of an image tower for the channels that are asked for. Raises UserError."""
    assert c.foreign is not None
    tree = c.foreign.architecture
    if tree.get("num_channels", 3) == c.channels:
        return tree
    if "num_channels" not in tree:
        raise UserError(
            f"model.image.channels is {c.channels}, and transformers' {tree.get('model_type')} takes 3 (its config has "
            f"no num_channels); leave channels out, or take another tower"
        )
    return {**tree, "num_channels": c.channels}


class Text(LibraryTower):
    """A text model of transformers over padded rows, pooled to its first, last, or EOS token, the mean, or its own."""

    part = "text"

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        assert c.foreign is not None
        self.foreign = c.foreign
        self.pool = _pool(c.foreign, ("cls", "mean", "eos", "last", "pooler"), "model.text")
        self.context = c.context if c.foreign.padding == "context" else None
        self.eos, self.pad = c.eos, c.pad
        self.model = _build(c.foreign, "text")

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which the first lengths [n] are valid -> features [n, width]."""
        mask = None
        if self.context is not None:
            tokens = fill(tokens, lengths, self.context, self.pad)
        else:
            mask = valid(lengths, tokens.shape[1]).long()
        out = self.model(input_ids=tokens, attention_mask=mask)
        if self.pool == "pooler":
            return out.pooler_output
        x, rows = out.last_hidden_state, torch.arange(len(tokens), device=tokens.device)
        if self.pool == "mean":
            return (x * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None]
        places = {"cls": torch.zeros_like(lengths), "last": lengths - 1}
        return x[rows, places[self.pool] if self.pool in places else (tokens == self.eos).int().argmax(1)]


def fill_tower(part: str, tower: Any, folder: Path) -> None:
    """Load the weights in a folder into a tower that was built from its architecture."""
    foreign: Foreign = tower.foreign
    config = _trimmed(foreign, part)
    with quiet():
        try:
            trained, info = _class(config, part).from_pretrained(
                folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except OSError as error:
            find_weights(folder, "model.safetensors")
            raise UserError(f"{folder}: its weights cannot be read ({error})") from None
    _drop_pooler(trained, foreign.pool)
    missing = sorted(key for key in info["missing_keys"] if key in trained.state_dict())
    if missing or info["mismatched_keys"]:
        raise UserError(f"{folder}: its weights do not fill the tower: it lacks {', '.join(missing[:3])} ...")
    tower.model.load_state_dict(trained.state_dict())


def _build(foreign: Foreign, part: str) -> Any:
    config = _trimmed(foreign, part)
    with quiet():
        try:
            model = _class(config, part)._from_config(config, dtype=torch.float32)
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"transformers cannot build the {part} tower ({repr(error)[:300]})") from None
    return _drop_pooler(model, foreign.pool)


def _trimmed(foreign: Foreign, part: str) -> Any:
    """Return transformers' config of a tower, without a head that nobody will read."""
    unread = foreign.architecture["model_type"] == "siglip_vision_model" and foreign.pool != "pooler"
    return _config({**foreign.architecture, **({"vision_use_head": False} if unread else {})})


def _drop_pooler(model: Any, pool: str) -> Any:
    if pool != "pooler" and isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None
    return model


def _config(tree: Tree) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(tree.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UserError(f"model_type {kind!r} is not one of transformers' own (code in a model folder is never run)")
    try:
        return CONFIG_MAPPING[kind].from_dict({k: v for k, v in tree.items() if k not in NOT_ARCHITECTURE})
    except Exception as error:  # each class has checks and errors of its own
        raise UserError(f"a {kind} of transformers cannot have such a config ({repr(error)[:300]})") from None


def _class(config: Any, part: str) -> Any:
    from transformers import SiglipTextModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    if config.model_type == "siglip_text_model":  # it has no entry in either mapping
        return SiglipTextModel
    mapping = MODEL_FOR_TEXT_ENCODING_MAPPING if part == "text" else MODEL_MAPPING
    found = mapping.get(type(config), None) or MODEL_MAPPING.get(type(config), None)
    if found is None:
        raise UserError(f"model_type {config.model_type!r} has no encoder in transformers; name another model")
    return found[0] if isinstance(found, tuple) else found


def _own_config(part: str, folder: Path) -> Tree:
    """Return the config of a folder's tower: of the one that it is, or of one of its two."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json there; name a transformers folder")
    tree: Tree = read_json(folder / "config.json")
    kind = tree.get("model_type", "")
    if kind not in IN_TWO:
        return tree
    half = {"image": "vision", "text": "text"}[part]
    return {**tree[f"{half}_config"], "model_type": f"{IN_TWO[kind]}_{half}_model"}


def _pool(foreign: Foreign, known: tuple[str, ...], where: str) -> str:
    if foreign.pool not in known:
        raise UserError(f"{where}.foreign.pool: say how its tokens become one feature: {', '.join(known)}")
    return foreign.pool


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal: what matters in them is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
