"""Tensors on disk: safetensors files only, in one piece or in shards, and the check that they fit a module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmclr.errors import UserError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def find_weights(folder: Path, *names: str) -> Path:
    """Return the first of the named files that `folder` has, a shards' index counting as the file it stands for."""
    for name in names:
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return path
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: only {pickles[0]} there, a pickle, which can run code and is never read; convert it to "
            f"{names[0]} where you trust it"
        )
    raise UserError(f"{folder}: no {names[0]} there; name a model folder, or copy what is missing")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of all files that an index names."""
    if path.suffix == ".json":
        names = set(json.loads(path.read_text())["weight_map"].values())
        return {key: value for name in sorted(names) for key, value in read_weights(path.parent / name).items()}
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: this part of the weights is missing; copy it again") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as transformers and open_clip read them."""
    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(state, path, metadata={"format": "pt"})


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Fill `model`; a name or shape that differs is one error that names the first few of each kind."""
    own = model.state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith(".position_ids")}
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} is {list(weights[name].shape)} there and {list(own[name].shape)} here"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    faults = (
        [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(extra)}"] * bool(extra) + sorted(shapes)[:2]
    )
    if faults:
        raise UserError(f"{where}: weights of another architecture: it {'; '.join(faults)}")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
