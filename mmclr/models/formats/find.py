"""From a source to a model's folder, config and weights.

A source is a run, a checkpoint, a model folder (ours, transformers', open_clip's), or a name: `owner/name` on the
Hugging Face Hub, `open_clip:ARCHITECTURE/TAG`. Only JSON and safetensors files are read: no pickle, and no code from
a model's folder, ever.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr.errors import UserError, note
from mmclr.models.captioning import decoder
from mmclr.models.config import ModelConfig
from mmclr.models.formats import open_clip, sizes
from mmclr.models.formats.open_clip_weights import from_open_clip
from mmclr.models.formats.transformers import from_transformers
from mmclr.models.formats.weights import find_weights, finite, read_weights
from mmclr.models.pooling import pool
from mmclr.storage import checkpoints
from mmclr.storage.json_file import read_json

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # of a repository; .txt and .model are vocabularies
STAGES = "stages.json"  # in a folder of several models side by side
READ = ("config.yaml", "model/", "average/", "state/objectives")  # of a checkpoint, by whoever wants its model


def find(source: str | Path, weights: str = "auto") -> Path:
    """Return the model folder that `source` is, holds or names.

    `weights` chooses in a checkpoint: "average", "model", or "auto" (averaged if the run kept an average).
    """
    path = Path(str(source).removeprefix("transformers:"))
    if not path.is_dir():
        return fetch(str(source))
    step = _checkpoint(path)
    names = ["average", "model"] if weights == "auto" else [weights]
    for folder in (path, *(step / name for name in names)):
        if any((folder / name).is_file() for name in ("config.json", open_clip.CONFIG, STAGES)):
            return folder
    raise UserError(
        f"{source}: no model there; name a run's folder, a checkpoint with {' or '.join(names)}/, or a model folder "
        f"(with config.json or {open_clip.CONFIG})"
    )


def _checkpoint(path: Path) -> Path:
    """Return the newest whole checkpoint of a run, else the folder itself. Says what it passes over.

    Raises UserError where a run has none that is whole, or where `path` is (in) one that is not.
    """
    passed: dict[Path, str] = {}
    newest = checkpoints.latest(path, passed, READ)
    for folder, wrong in passed.items():
        if newest is None:
            raise UserError(f"{folder}: this checkpoint is not whole ({wrong}), nor is any other of {path}")
        note(f"{folder}: this checkpoint is not whole ({wrong}); passed over, {newest.name} is taken")
    for folder in (path, path.parent):
        if newest is None and (folder / checkpoints.POSITION).is_file():
            checkpoints.refuse(folder, READ)
    return newest or path


def fetch(name: str) -> Path:
    """Return the local copy of a model on the Hub, downloaded if it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.startswith("open_clip:"):
        return _fetch_open_clip(name.removeprefix("open_clip:"))
    plain = name.removeprefix("transformers:").removeprefix("hf-hub:")
    try:
        return Path(snapshot_download(plain, allow_patterns=FILES))
    except HFValidationError:
        raise UserError(f"{name}: there is no such folder, and it is not the name of a model on the Hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{name}: neither a folder here nor in the Hub's cache, and it cannot be downloaded ({why}); where there "
            f"is no network (or HF_HUB_OFFLINE is set), copy the model's folder here and name that"
        ) from None


def _fetch_open_clip(name: str) -> Path:
    """Return the folder of open_clip's ARCHITECTURE/TAG, refused where the two disagree on QuickGELU."""
    from open_clip import get_model_config, get_pretrained_cfg, list_pretrained_tags_by_model

    path = Path(name)
    if path.is_dir():
        return path
    architecture, _, tag = name.rpartition("/")
    model, cfg = get_model_config(architecture), get_pretrained_cfg(architecture, tag)
    if model is None or not cfg:
        tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise UserError(f"open_clip:{name}: no such weights in open_clip (tags of {architecture or name!r}: {tags})")
    repository, _, _ = str(cfg.get("hf_hub") or "").rpartition("/")
    if not repository:
        raise UserError(f"open_clip:{name}: open_clip has it as a pickle only, which is never read here")
    if bool(cfg.get("quick_gelu")) != bool(model.get("quick_gelu")):
        right = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
        raise UserError(
            f"open_clip:{name}: these weights were trained with {right}, and {architecture} has the other activation; "
            f"name the architecture {architecture.removesuffix('-quickgelu')}"
            f"{'-quickgelu' if right == 'quick_gelu' else ''}"
        )
    return fetch(repository)


def is_open_clip(folder: Path) -> bool:
    """Whether open_clip's files say what is in a folder, and not transformers'."""
    return (folder / open_clip.CONFIG).is_file() and not (folder / "config.json").is_file()


def read_config(folder: Path) -> ModelConfig:
    """Return the architecture of a model folder."""
    names: tuple[str, ...] = ("model.safetensors",)
    try:
        if is_open_clip(folder):
            config, names = open_clip.read_config(folder), open_clip.WEIGHTS
        elif not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json there; name a checkpoint, its model/, or a model folder")
        else:
            config = dataclasses.replace(from_transformers(folder), captioner=decoder.read_config(folder))
        config = dataclasses.replace(config, image_pool=pool.read_kind(folder))
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}: its configuration cannot be read ({repr(error)[:300]}); copy it again") from None
    sizes.check(config, folder, names)
    return config


def read(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the architecture and the weights of a model folder, under our names."""
    config = read_config(folder)
    if is_open_clip(folder):
        state = read_weights(find_weights(folder, *open_clip.WEIGHTS))
        return config, finite(from_open_clip(state, config, str(folder)), folder)
    state = read_state(folder)
    tree: dict[str, Any] = read_json(folder / "config.json")
    if tree["model_type"] == "siglip":
        state = {_nested(name): value for name, value in state.items()}
    bias = tree.get("mmclr", {}).get("logit_bias")
    if bias is not None:  # CLIPModel has no place for it among its weights
        state.setdefault("logit_bias", torch.tensor(float(bias)))
    odd = [name for name, value in state.items() if name.startswith("logit_") and value.numel() != 1]
    if odd:
        raise UserError(f"{folder}: {odd[0]} is {list(state[odd[0]].shape)} and no single number; copy it again")
    state = {name: value.reshape(()) if name.startswith("logit_") else value for name, value in state.items()}
    return config, finite(state, folder)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder of ours or transformers', captioner and pool too, under the names they have."""
    return {**read_weights(find_weights(folder, "model.safetensors")), **decoder.read(folder), **pool.read(folder)}


def _nested(name: str) -> str:
    """Return a SiglipModel tensor's name in a model with foreign towers."""
    for tower in ("vision_model.", "text_model."):
        if name.startswith(tower):
            return f"{tower}model.{name.removeprefix(tower)}"
    return name
